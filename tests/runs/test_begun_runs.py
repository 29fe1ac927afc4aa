"""Runs that begin from a run: their weights, what they hold themselves, and folders made of them."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

import nami_jax
from configs import finetune
from nami_jax import NamiPipeline
from nami_jax.checkpoints.runs import load_run
from nami_jax.config import BridgeConfig, Config, SampleConfig
from nami_jax.release.conversion import convert_release
from nami_jax.release.exporting import export_run
from nami_jax.release.run_conversion import convert_run
from nami_jax.training.loop import run as run_task
from nami_jax.training.tasks import read_task
from nami_jax.weights import open_tensors
from tests.support.runs import card_config, train

ONE_DEVICE = jax.devices()[:1]
FEW = {"steps": 4, "checkpoint_every": 2, "eval_every": 100, "sample_every": 100, "sample_images": 2}
DRAWN: dict[str, Any] = {"prompts": ["red card", "blue card"], "steps": (1, 1, 1), "seed": 3}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def origin(data_dir, tmp_path_factory) -> Path:
    """A run with checkpoints of steps 2 and 4."""
    workdir = tmp_path_factory.mktemp("runs") / "origin"
    train(card_config(data_dir, train=FEW, model={"mlp_ratio": 4}), workdir, ONE_DEVICE)  # as released ones have
    return workdir


@pytest.fixture(scope="module")
def begin(data_dir):
    """Returns what reads configs/finetune.py on the cards, as the command does, with fields replaced."""

    def make(workdir: Path, init_from: str | Path, **sections: dict[str, Any]):
        fields: Any = finetune.get_config()
        fields.data.update(card_config(data_dir).to_dict()["data"], side=None)
        fields.train.update(FEW, init_from=str(init_from), stage_batches=((4, 4, 4),), warmup_steps=0, eval_batch=4)
        for name, values in sections.items():
            fields[name].update(values)
        return read_task(fields.to_dict(), ONE_DEVICE, workdir=workdir)

    return make


def leaves(params: Any) -> dict[Any, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in flatten_dict(params).items()}


def assert_same(found: Any, expected: Any) -> None:
    found, expected = leaves(found), leaves(expected)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=str(path))


def network(workdir: Path, step: int | None = None) -> Any:
    return nnx.to_pure_dict(nnx.state(load_run(workdir, step).model))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("at", "step"), [("", 4), ("@2", 2)])
def test_a_run_begins_with_the_averaged_weights_of_the_newest_checkpoint_or_of_a_step(
    origin, begin, tmp_path, at, step
):
    state = begin(tmp_path, f"{origin}{at}").first_state(tmp_path)
    assert int(state.step) == 0
    for params in (state.params, state.ema):
        assert_same(params, network(origin, step))
    with pytest.raises(AssertionError):
        assert_same(state.params, network(origin, 6 - step))


@pytest.fixture(scope="module")
def adapted(origin, begin, tmp_path_factory):
    """A LoRA on a copy of the run, continued when that had gone, and what the copy held before and after."""
    folder = tmp_path_factory.mktemp("adapted")
    source, workdir = shutil.copytree(origin, folder / "source"), folder / "lora"
    before = content(source)
    run_task(begin(workdir, source, model={"lora_rank": 2}), workdir, stop_after=2)
    after = content(source)
    shutil.rmtree(source)
    state = run_task(begin(workdir, source, model={"lora_rank": 2}), workdir)
    return workdir, state, before, after


def test_what_a_run_begins_from_is_left_as_it_was(adapted):
    assert adapted[2] == adapted[3]


def test_low_rank_pairs_on_a_run_continue_and_draw_when_it_has_gone(adapted, origin):
    workdir, state, _, _ = adapted
    assert int(state.step) == 4
    base, merged = leaves(network(origin)), leaves(network(workdir))
    for path, leaf in leaves(state.frozen).items():
        np.testing.assert_array_equal(leaf, base[path], err_msg=str(path))
    moved = ("single_blocks", "proj", "kernel")
    assert not np.array_equal(merged[moved], base[moved])


def test_a_folder_of_a_run_draws_the_same_pictures_without_it(adapted, tmp_path, monkeypatch):
    """Patches of two pixels, low-rank pairs merged in; then a copy that no path leads back from."""
    workdir = shutil.copytree(adapted[0], tmp_path / "run")
    expected = [np.asarray(image) for image in NamiPipeline.from_pretrained(workdir)(**DRAWN)]
    convert_run(workdir, tmp_path / "folder")
    shutil.rmtree(workdir)
    (tmp_path / "folder").rename(tmp_path / "elsewhere")
    monkeypatch.chdir("/")
    pipe = NamiPipeline.from_pretrained(tmp_path / "elsewhere")
    assert (pipe.cfg.text.encoder, pipe.cfg.text.folder, pipe.cfg.side, pipe.cfg.model.lora_rank) == (
        "minilm", None, 16, None,
    )  # fmt: skip
    for found, image in zip(pipe(**DRAWN), expected, strict=True):
        np.testing.assert_array_equal(np.asarray(found), image)


def test_a_run_stored_in_sixteen_bits_says_how_it_was_trained_and_draws_nearly_the_same(origin, tmp_path):
    for name in ("first", "second"):
        convert_run(origin, tmp_path / name, step=2, dtype="float16")
    assert content(tmp_path / "first") == content(tmp_path / "second")
    stored = open_tensors(tmp_path / "first" / "transformer")
    assert {str(tensor.dtype) for tensor in stored.values()} == {"float16"}
    recipe = json.loads((tmp_path / "first" / "recipe.json").read_text())
    assert Config.from_dict(recipe["config"]) == load_run(origin).cfg
    assert (recipe["step"], recipe["converted_by"]["nami_jax"]) == (2, nami_jax.__version__)
    found, exact = NamiPipeline.from_pretrained(tmp_path / "first"), NamiPipeline.from_pretrained(origin, 2)
    assert (found.cfg.model.dtype, exact.cfg.model.dtype) == ("float32", "float32")
    difference = np.abs(found(output_type="np", **DRAWN) - exact(output_type="np", **DRAWN))
    assert 0 < difference.max() < 0.02  # float16 rounds to 1 in 2,048; three steps


def test_an_exported_run_keeps_its_settings_through_the_layout_of_a_release(origin, data_dir, tmp_path):
    export_run(origin, tmp_path / "release", step=2, as_safetensors=True)
    converted = convert_release(tmp_path / "release", tmp_path / "again")
    assert converted.absent == []  # MiniLM comes with its package, and pixels need no autoencoder
    assert (tmp_path / "again" / "pipeline.json").read_text() == (tmp_path / "release" / "pipeline.json").read_text()
    assert json.loads((tmp_path / "again" / "pipeline.json").read_text())["side"] == 16


@pytest.mark.slow
def test_a_run_begins_on_other_images_at_another_size_with_another_batch(origin, begin, tmp_path):
    task = begin(
        tmp_path, origin, data={"side": 32, "caption_templates": ("{}",)}, train={"stage_batches": ((2, 4, 6),)}
    )
    assert int(run_task(task, tmp_path, stop_after=1).step) == 1
    assert NamiPipeline.from_pretrained(tmp_path)("red card", steps=(1, 1, 1))[0].size == (32, 32)


@pytest.fixture(scope="module")
def bridged(data_dir, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "bridged"
    cfg = card_config(data_dir, train=FEW | {"steps": 3}, model={"patch_size": 1})
    sample = SampleConfig(steps=(1, 1, 1), transition="bridge")
    train(
        dataclasses.replace(cfg, bridge=BridgeConfig("conv", steps=2, noise=0.5), sample=sample),
        workdir,
        ONE_DEVICE,
        stop_after=1,
    )
    return workdir


@pytest.mark.slow
def test_a_folder_keeps_a_bridge_of_convolutions_and_patches_of_one(bridged, begin, tmp_path):
    convert_run(bridged, tmp_path / "folder")
    expected = [np.asarray(image) for image in NamiPipeline.from_pretrained(bridged)(**DRAWN)]
    for found, image in zip(NamiPipeline.from_pretrained(tmp_path / "folder")(**DRAWN), expected, strict=True):
        np.testing.assert_array_equal(np.asarray(found), image)
    trained = nnx.to_pure_dict(nnx.state(load_run(bridged).bridge))
    for init_from in (bridged, tmp_path / "folder"):
        state = begin(tmp_path / "begun", init_from).first_state(tmp_path / "begun")
        assert_same(state.bridge, trained)
