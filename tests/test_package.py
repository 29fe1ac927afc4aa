"""The package as it is installed: away from the repository, with its configs and commands."""

import os
import shutil
import subprocess
import sys
import tomllib

import pytest

import nami_jax
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

LOOK = """
import importlib.metadata, pathlib, sys
import nami_jax
from nami_jax import Config
from nami_jax.config.listing import RUNS
from nami_jax.terminal.config_flag import CONFIGS, SHARED, find_config
from nami_jax.weights.converted import shipped_models
assert importlib.metadata.version("nami_jax") == nami_jax.__version__
for path in CONFIGS.glob("*.py"):
    module = importlib.import_module(f"nami_jax.configs.{path.stem}")
    if path.stem not in SHARED:
        fields = module.get_config().to_dict()
        if path.stem != "finetune":  # whose sizes are those of what it begins from
            RUNS[fields.pop("task", "flow")].from_dict(fields)
        print(find_config(path.stem))
print(shipped_models()[-1])
"""


def test_what_the_package_offers_is_listed_and_there():
    assert dir(nami_jax) == ["Config", "ConfigError", "NamiPipeline", "__doc__", "__version__"]
    for name in dir(nami_jax):
        assert getattr(nami_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'NamiPipelin'"):
        _ = nami_jax.NamiPipelin  # pyright: ignore[reportAttributeAccessIssue]


def test_there_is_a_command_for_each_module_at_the_top():
    modules = sorted(path.stem for path in (ROOT / "nami_jax").glob("[!_]*.py"))
    assert PROJECT["scripts"] == {f"nami-{name}": f"nami_jax.{name}:cli" for name in modules}


@pytest.mark.slow
def test_a_wheel_brings_commands_and_configs_to_an_empty_folder(tmp_path):
    source, site, away = (tmp_path / name for name in ("source", "site", "away"))
    away.mkdir()
    for name in ("nami_jax", "configs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shipped = source / "nami_jax" / "pretrained" / "tiny" / "transformer"
    shipped.mkdir(parents=True)
    for path in (shipped / "model.safetensors", shipped.parent / "pipeline.json"):
        path.write_text("here")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True, timeout=300)
    shutil.rmtree(source)

    env = os.environ | {"PYTHONPATH": str(site)}
    looked = subprocess.run([sys.executable, "-c", LOOK], cwd=away, env=env, capture_output=True, text=True)
    assert looked.returncode == 0, looked.stderr
    found = looked.stdout.splitlines()
    assert str(site / "nami_jax" / "configs" / "emoji_tiny.py") in found
    assert (
        len(found) == len(list((ROOT / "configs").glob("*.py"))) - 2 + 1
    )  # but base and presets, and the shipped model
    assert (site / "nami_jax" / "pretrained" / "tiny" / "transformer" / "model.safetensors").read_text() == "here"
    assert found[-1] == "tiny"
    assert {path.name for path in (site / "bin").glob("nami-*")} == PROJECT["scripts"].keys()
    said = subprocess.run([site / "bin" / "nami-train", "--version"], cwd=away, env=env, capture_output=True, text=True)
    assert said.stdout == f"nami_jax {nami_jax.__version__}\n"
    told = subprocess.run(
        [site / "bin" / "nami-train", "--config=emoji_tiny", "--config.model.lora_rank=4"],
        cwd=away, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert told.stderr.endswith("LoRA needs a trained network to adapt. Set train.init_from.\n")
    assert list(away.iterdir()) == []
