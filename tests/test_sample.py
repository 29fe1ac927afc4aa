import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from nami_jax.config import ConfigError
from nami_jax.sample import in_a_style, load_adapters, save_pictures, save_stages
from nami_jax.sampling.pictures import CELL
from tests.support.paths import ROOT
from tests.support.pipelines import small_pipeline

IMPORT = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
print(*sys.modules)
"""


def output(script: str, *arguments: str) -> list[str]:
    run = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


LONG = "a very long description of a red card that goes on "


@pytest.mark.parametrize("overwrite", [False, True])
def test_pictures_of_other_prompts_or_settings_are_kept_unless_they_are_to_be_replaced(tmp_path, overwrite, capsys):
    red, blue = (Image.new("RGB", (2, 2), colour) for colour in ("red", "blue"))
    for picture, prompt, about in (
        (red, f"{LONG}and on", {"seed": 1, "steps": (2, 2)}),
        (blue, f"{LONG}and ends", {"seed": 1, "steps": (2, 2)}),
        (red, f"{LONG}and on", {"seed": 1, "steps": (3, 3)}),
        (red, f"{LONG}and on", {"seed": 1, "steps": (2, 2)}),
    ):
        save_pictures([picture, picture], [prompt, prompt], tmp_path, about, overwrite)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.iterdir()}
    assert len(names) == (3 if overwrite else 9)
    assert {f"{i:03d}-a-very-long-description-of-a-red-card-th-seed1.png" for i in (0, 1)} | {"grid.png"} <= names
    assert len(capsys.readouterr().out.splitlines()) == 12  # each picture is named, also one that was there


def test_each_adapter_has_a_scale_or_none_has():
    with pytest.raises(ConfigError, match=r"lora_scale = \[0\.5\]: --lora names 2 adapters\. Give one for each"):
        load_adapters(small_pipeline(), ["a", "b"], [0.5])


def test_prompts_without_a_style_get_one_and_others_are_left(capsys):
    named = ["a red apple, noto style", "flat Fluent pear", "a Twemoji cat", " "]
    assert in_a_style(named) == named
    assert capsys.readouterr().out == ""
    assert in_a_style(["a red apple", *named]) == ["a red apple, noto style", *named]
    assert "is added to prompts that name no style" in capsys.readouterr().out


def test_the_stages_of_a_picture_stand_beside_one_another_at_one_size(tmp_path):
    stages = [[Image.new("RGB", (side, side), colour) for colour in ("red", "blue")] for side in (8, 16, 32)]
    save_stages(stages, ["red", "blue"], tmp_path, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"000-red-seed0-stages.png", "001-blue-seed0-stages.png"}
    with Image.open(tmp_path / "000-red-seed0-stages.png") as sheet:
        assert sheet.size[0] == 8 + 3 * (CELL + 8)
        assert sheet.convert("RGB").getpixel((10 + 2 * 104, 40)) == (255, 0, 0)


def test_drawing_pictures_imports_no_training():
    tree = ast.parse((ROOT / "nami_jax" / "sample.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    ours = {name for name in imported if name.startswith("nami_jax.")}
    assert "nami_jax.sampling.pipeline" in ours
    loaded = output(IMPORT, "nami_jax.sample", *sorted(ours))
    assert {"nami_jax.sampling.sampler", "jax"} < set(loaded)
    assert not {name for name in loaded if name.startswith("nami_jax.training")}


def drawn_with(folder: Path, *given: str) -> str | None:
    """Returns the checkpoint that `make sample` names in a clone."""
    made = ["make", "--dry-run", "ACCELERATOR=cpu", "sample", *given]
    recipe = subprocess.run(made, cwd=folder, capture_output=True, text=True, check=True).stdout
    found = re.search(r'-m nami_jax\.sample +(?:--checkpoint "(.*?)")?', recipe)
    assert found is not None, recipe
    return found[1]


def test_make_draws_with_the_run_that_is_there_or_named_and_else_as_the_command_does(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "requirements.txt", "requirements-build.txt"):
        (tmp_path / name).touch()
    assert drawn_with(tmp_path) is None
    for given, checkpoint in (
        ("CHECKPOINT=other", "other"),
        ("CONFIG=configs/styles.py", "runs/styles"),
        ("WORKDIR=runs/mine", "runs/mine"),
    ):
        assert drawn_with(tmp_path, given) == checkpoint
    (tmp_path / "runs" / "emoji_tiny" / "checkpoints").mkdir(parents=True)
    assert drawn_with(tmp_path) == "runs/emoji_tiny"
