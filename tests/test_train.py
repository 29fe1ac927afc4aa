import json

import jax
import numpy as np
import pytest
from PIL import Image

from nami_jax.checkpoint import CheckpointError, Checkpoints
from nami_jax.config import Config, ConfigError
from nami_jax.metrics import NonFiniteLossError
from nami_jax.train import train
from tests.runs import card_config

ONE_DEVICE = jax.devices()[:1]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def whole_run(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return workdir, train(card_config(data_dir), workdir, ONE_DEVICE)


def numbers(state):
    """All of a state as NumPy arrays, random keys as the words they hold."""
    state = state | {"key": jax.random.key_data(state["key"])}
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def test_interrupted_run_ends_bit_equal_to_an_uninterrupted_one(whole_run, data_dir, tmp_path):
    cfg = card_config(data_dir)
    stopped = train(cfg, tmp_path, ONE_DEVICE, stop_after=7)
    assert int(stopped["step"]) == 7
    found, expected = numbers(train(cfg, tmp_path, ONE_DEVICE)), numbers(whole_run[1])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_run_leaves_checkpoints_events_grids_and_its_config(whole_run, data_dir):
    workdir, _ = whole_run
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"10", "12"}
    assert list((workdir / "events").iterdir())
    assert Config.from_dict(json.loads((workdir / "config.json").read_text())) == card_config(data_dir)
    grids = sorted((workdir / "samples").iterdir())
    assert [p.name for p in grids] == ["step_0000006.png", "step_0000012.png"]
    with Image.open(grids[-1]) as grid:
        assert "red card" in grid.text["captions"]  # pyright: ignore[reportAttributeAccessIssue]


def test_finished_run_is_left_as_it_is(whole_run, data_dir):
    workdir, state = whole_run
    found, expected = numbers(train(card_config(data_dir), workdir, ONE_DEVICE)), numbers(state)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_workdir_of_another_model_is_refused(whole_run, data_dir):
    cfg = card_config(data_dir, model={"mlp_ratio": 3})
    with pytest.raises(ConfigError, match=r"model\.mlp_ratio = 3: the run in .* was begun with 2"):
        train(cfg, whole_run[0], ONE_DEVICE)


def test_non_finite_loss_stops_the_run_and_names_the_step(data_dir, tmp_path):
    cfg = card_config(data_dir, train={"phase_learning_rates": (1e30,), "warmup_steps": 0, "sample_every": 100})
    with pytest.raises(NonFiniteLossError, match=r"step \d+: the loss is (nan|inf)"):
        train(cfg, tmp_path, ONE_DEVICE)
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))


def test_text_encoder_of_another_width_is_refused_before_anything_compiles(data_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.text_dim = 24: the text encoder gives 384"):
        train(card_config(data_dir, model={"text_dim": 24}), tmp_path, ONE_DEVICE)
    assert not list(tmp_path.iterdir())


def test_missing_checkpoint_says_what_to_give(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoints"):
        Checkpoints(tmp_path)


def test_unfinished_checkpoint_does_not_count(tmp_path):
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"no finished checkpoint, only \['5\.orbax-checkpoint-tmp'\]"):
        Checkpoints(tmp_path)


def test_damaged_checkpoint_is_named(data_dir, tmp_path):
    cfg = card_config(data_dir, train={"steps": 1})
    train(cfg, tmp_path, ONE_DEVICE)
    for file in (tmp_path / "checkpoints" / "1" / "config").iterdir():
        file.unlink()
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match=r"checkpoints/1 cannot be read"):
        checkpoints.config(1)
