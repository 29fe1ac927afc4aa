"""Configs by name or path, and their fields on the command line."""

import ast
import json
import subprocess
import sys
import types
import typing

import pytest
from absl import flags

from nami_jax.config import Config
from nami_jax.config.listing import RUNS
from nami_jax.config.settings import Declared, declared, sections
from nami_jax.terminal.config_flag import CONFIGS, config_name, find_config
from tests.support.paths import ROOT

LOAD = """
import json, sys
from nami_jax.terminal import command_line, config_flag
config_flag.define_config_flag("a config")
command_line.parse_flags(sys.argv)
from absl import flags
print(json.dumps(flags.FLAGS.config.to_dict()))
"""

OPTIONAL: dict[str, Declared] = {
    f"{name}.{field.name}": field
    for name, section in sections(Config).items()
    for field in declared(section)
    if types.NoneType in typing.get_args(field.type)
}


def load(*arguments: str, cwd=ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOAD, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})


def loaded(*arguments: str, cwd=ROOT) -> dict:
    run = load(*arguments, cwd=cwd)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def a_value(field: Declared):
    """Returns a value of the type that an optional field has beside None."""
    if field.choices:
        return field.choices[0]
    kind = next(part for part in typing.get_args(field.type) if part is not types.NoneType)
    kind = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
    return {str: "some/folder", int: 4, float: 0.5}.get(kind, [3, 2])


def test_every_optional_field_can_be_set_and_set_to_none():
    assert {"model.lora_rank", "bridge.kind", "data.buckets", "train.init_from", "text.folder"} <= OPTIONAL.keys()
    # emoji_tiny replaces a whole section, whose fields that are None know no type; nami_2b_finetune sets some of them.
    for config in ("emoji_tiny", "nami_2b_finetune"):
        values = {path: a_value(field) for path, field in OPTIONAL.items()}
        found = loaded(f"--config={config}", *(f"--config.{path}={value}" for path, value in values.items()))
        assert {path: found[path.split(".")[0]][path.split(".")[1]] for path in values} == values
        found = loaded(f"--config={config}", *(f"--config.{path}=None" for path in values))
        assert {path: found[path.split(".")[0]][path.split(".")[1]] for path in values} == dict.fromkeys(values)


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--config.train.stepz=3", "--config.train.stepz: there is no field 'stepz' in section 'train'. Did you mean "
         "'steps'?"),
        ("--config.trian.steps=3", "--config.trian.steps: there is no section 'trian' in the config. Did you mean "
         "'train'?"),
        ("--config.lora_rank=3", "--config.lora_rank: there is no section 'lora_rank' in the config. Did you mean "
         "model.lora_rank?"),
        ("--config.train.side=3", "--config.train.side: there is no field 'side' in section 'train'. Did you mean "
         "data.side?"),
        ("--config.train.steps=many", "flag --config.train.steps=many: must be an integer."),
        ("--config.train.grad_clip=x", "flag --config.train.grad_clip=x: must be a number."),
        ("--config.sample.steps=(1,", "flag --config.sample.steps=(1,: must be a list such as '(1, 2, 3)'."),
    ],
)  # fmt: skip
def test_names_and_values_that_do_not_fit_are_told_in_one_line(flag, line):
    run = load("--config=emoji_tiny", flag)
    assert (run.returncode, run.stderr) == (1, f"error: {line} --help lists the flags.\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("def get_config(:", "SyntaxError: invalid syntax (own.py, line 1)."),
        ("import nix", "ModuleNotFoundError: No module named 'nix' (line 1)."),
        ("def get_config():\n    return {}['a']", "KeyError: 'a' (line 2)."),
        ("def get_config():\n    return open('/no/such')", "FileNotFoundError: [Errno 2] No such file or directory: "
         "'/no/such' (line 2)."),
        ("def get_config():\n    raise ValueError('use :lora or :full')", "ValueError: use :lora or :full (line 2)."),
    ],
)  # fmt: skip
def test_config_file_that_fails_says_why_and_where(tmp_path, content, reason):
    (tmp_path / "own.py").write_text(content)
    run = load("--config=own.py", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (1, f"error: --config=own.py: {reason} --help lists the flags.\n")


def test_config_is_found_by_name_from_any_folder_and_a_file_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("emoji_tiny", "emoji_tiny.py", "configs/emoji_tiny.py"):
        assert find_config(name) == CONFIGS / "emoji_tiny.py"
    (tmp_path / "configs").mkdir()
    own = tmp_path / "configs" / "emoji_tiny.py"
    own.write_text("")
    assert find_config("configs/emoji_tiny.py").samefile(own)
    with pytest.raises(flags.Error, match=r"emoji_tinny: is neither .* Did you mean 'emoji_tiny'"):
        find_config("emoji_tinny")
    with pytest.raises(flags.Error, match="is neither a file nor the name of a config"):
        find_config("base")


def test_a_config_of_one_s_own_takes_values_from_those_of_the_package(tmp_path):
    (tmp_path / "own.py").write_text(
        "from nami_jax.configs import emoji_tiny\n\n"
        "def get_config():\n    config = emoji_tiny.get_config()\n    config.train.steps = 7\n    return config\n"
    )
    assert loaded("--config=own.py", cwd=tmp_path)["train"]["steps"] == 7


def test_every_config_that_comes_with_the_package_loads_by_its_name():
    for path in CONFIGS.glob("*.py"):
        # The package has no `configs` beside it where it is installed.
        imported = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert "configs" not in imported, f"{path.name}: import from nami_jax.configs"
    for name in ("emoji", "autoencoder_emoji", "nami_2b_finetune:full"):
        found = loaded(f"--config={name}")
        RUNS[found.pop("task", "flow")].from_dict(found)


def test_a_run_is_named_after_its_config_and_variant():
    assert config_name("configs/emoji_tiny.py") == config_name("emoji_tiny") == "emoji_tiny"
    assert config_name("configs/nami_2b_finetune.py:full") == "nami_2b_finetune_full"
