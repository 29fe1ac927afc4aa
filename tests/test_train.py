import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from nami_jax.checkpoints.checkpoint import CheckpointError, Checkpoints
from nami_jax.checkpoints.runs import load_run
from nami_jax.config import Config, ConfigError
from nami_jax.monitoring.metrics import NonFiniteError
from nami_jax.training.flow_task import FlowTask
from tests.support.runs import card_config, numbers, restored, train

ONE_DEVICE = jax.devices()[:1]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def whole_run(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return workdir, train(card_config(data_dir), workdir, ONE_DEVICE)


def after(step, state):
    """Returns the state with another count of steps."""
    return dataclasses.replace(state, step=jnp.int32(step))


def newest(cfg, workdir):
    """Returns the state and the loader's position in the newest checkpoint."""
    with Checkpoints(workdir, cfg) as checkpoints:
        return restored(checkpoints, FlowTask(cfg, ONE_DEVICE))


def test_interrupted_run_ends_bit_equal_to_an_uninterrupted_one(whole_run, data_dir, tmp_path):
    cfg = card_config(data_dir)
    stopped = train(cfg, tmp_path, ONE_DEVICE, stop_after=7)
    assert int(stopped.step) == 7
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


def test_finished_run_is_left_as_it_is_and_says_so(whole_run, data_dir, capsys):
    workdir, state = whole_run
    found, expected = numbers(train(card_config(data_dir), workdir, ONE_DEVICE)), numbers(state)
    assert f"{workdir}: step 12 of 12 is done already" in capsys.readouterr().out
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_run_is_not_continued_to_fewer_steps_than_it_has_done(whole_run, data_dir):
    workdir, _ = whole_run
    with pytest.raises(ConfigError, match=r"train\.steps = 11: the run has done 12 steps already\. Set at least 12"):
        train(card_config(data_dir, train={"steps": 11}), workdir, ONE_DEVICE)
    assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == 12


def test_suggested_prompt_is_a_caption_of_the_run(data_dir):
    task = FlowTask(card_config(data_dir), ONE_DEVICE)
    said = task.what_next(Path("runs/mine"))
    assert re.search(r"--checkpoint runs/mine --prompt '\w+ card'$", said)


def test_workdir_of_another_model_is_refused(whole_run, data_dir):
    cfg = card_config(data_dir, model={"mlp_ratio": 3})
    with pytest.raises(ConfigError, match=r"model\.mlp_ratio = 3: the run in .* was started with 2"):
        train(cfg, whole_run[0], ONE_DEVICE)


def test_steps_without_a_finite_loss_are_skipped_until_there_are_too_many(data_dir, tmp_path, capsys):
    cfg = card_config(
        data_dir,
        train={"phase_learning_rates": (1e30,), "warmup_steps": 0, "max_skipped_steps": 3, "sample_every": 100,
               "checkpoint_every": 1, "keep_checkpoints": 9},
    )  # fmt: skip
    with pytest.raises(NonFiniteError, match=r"step 4: the loss is (nan|inf).* in a row: 3\. .*No checkpoint is left"):
        train(cfg, tmp_path, ONE_DEVICE)
    warned = [line for line in capsys.readouterr().out.splitlines() if "Skipped; in a row" in line]
    assert [line[:7] for line in warned] == ["step 2:", "step 3:"]
    # What the first step made is finite, and of no use; nothing was saved while steps were skipped.
    assert [path.name for path in (tmp_path / "diverged").iterdir()] == ["1"]
    assert not list((tmp_path / "checkpoints").iterdir())


def test_text_encoder_of_another_width_is_refused_before_anything_compiles(data_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.text_dim = 24: the text encoder's width is 384"):
        train(card_config(tmp_path / "data", model={"text_dim": 24}), tmp_path / "run", ONE_DEVICE)
    assert not list(tmp_path.iterdir())


def test_validation_batch_that_devices_cannot_share_is_named(data_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.eval_batch = \(6,\): .* 8 devices"):
        train(card_config(data_dir, train={"eval_batch": 6}), tmp_path)


@pytest.mark.slow
def test_run_on_eight_devices_continues_on_one(whole_run, data_dir, tmp_path):
    train(card_config(data_dir, mesh={"fsdp": 2}), tmp_path, stop_after=6)
    found = numbers(train(card_config(data_dir), tmp_path, ONE_DEVICE))
    for name, value in numbers(whole_run[1]).items():
        # Adam makes much of rounding where a gradient is nearly 0: up to a few learning rates of 1e-3 in all.
        np.testing.assert_allclose(found[name], value, atol=5e-4, err_msg=name)


def test_how_a_run_is_computed_may_change_on_its_way(whole_run, data_dir):
    cfg = card_config(data_dir, model={"remat": "full"}, data={"cache_images": 3}, train={"keep_checkpoints": 1})
    assert int(train(cfg, whole_run[0], ONE_DEVICE).step) == 12


def test_missing_checkpoint_says_what_to_give(tmp_path):
    with pytest.raises(CheckpointError, match="contains no checkpoints"):
        Checkpoints(tmp_path)


def test_unfinished_checkpoint_does_not_count(tmp_path):
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"no finished checkpoint, only \['5\.orbax-checkpoint-tmp'\]"):
        Checkpoints(tmp_path)


def cut_short(folder):
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_run_continues_from_the_checkpoint_before_a_damaged_one(whole_run, data_dir, tmp_path, caplog):
    workdir = shutil.copytree(whole_run[0], tmp_path / "run")
    cut_short(workdir / "checkpoints" / "12" / "train")
    found, expected = numbers(train(card_config(data_dir), workdir, ONE_DEVICE)), numbers(whole_run[1])
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert "checkpoints/12 cannot be read" in caplog.text
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"10", "12"}
    assert {path.name for path in (workdir / "damaged").iterdir()} == {"12"}


def test_samples_are_drawn_from_the_checkpoint_before_a_damaged_one(whole_run, tmp_path, caplog):
    workdir = shutil.copytree(whole_run[0], tmp_path / "run")
    cut_short(workdir / "checkpoints" / "12" / "ema")
    assert load_run(workdir).step == 10
    assert "checkpoints/12 cannot be read" in caplog.text
    assert "step 10" in caplog.text
    with pytest.raises(CheckpointError, match=r"checkpoints/12 cannot be read"):
        load_run(workdir, step=12)
    assert not (workdir / "damaged").exists()


def test_step_that_was_never_saved_is_refused_with_those_that_were(whole_run):
    with (
        Checkpoints(whole_run[0]) as checkpoints,
        pytest.raises(CheckpointError, match=r"no step 11\. It has \[10, 12\]"),
    ):
        checkpoints.config(11)


def test_run_with_a_bridge_trains_it_once_and_continues_bit_equal(data_dir, tmp_path):
    bridge = {"kind": "conv", "steps": 5, "noise": 0.5}
    sections = {"bridge": bridge, "sample": {"transition": "bridge"}, "train": {"steps": 4}}
    cfg = card_config(data_dir, **sections)
    whole = train(cfg, tmp_path / "whole", ONE_DEVICE)
    train(cfg, tmp_path / "parts", ONE_DEVICE, stop_after=2)
    found, expected = numbers(train(cfg, tmp_path / "parts", ONE_DEVICE)), numbers(whole)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert not np.array_equal(expected[".bridge['scales']"], np.ones(2))
    run = load_run(tmp_path / "whole")
    np.testing.assert_array_equal(run.bridge.scales[...], expected[".bridge['scales']"])  # pyright: ignore[reportOptionalMemberAccess]


def test_a_bridge_that_did_not_train_is_not_kept(data_dir, tmp_path):
    bridge = {"kind": "conv", "steps": 8, "learning_rate": 1e30}
    cfg = card_config(data_dir, bridge=bridge, sample={"transition": "bridge"})
    with pytest.raises(NonFiniteError, match=r"training the bridge.* Lower bridge\.learning_rate"):
        train(cfg, tmp_path, ONE_DEVICE)
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))


def test_another_number_of_samples_is_another_run(whole_run, data_dir, tmp_path):
    cfg, workdir = card_config(data_dir), shutil.copytree(whole_run[0], tmp_path / "run")
    state, position = newest(cfg, workdir)
    assert position["samples"] == [16]
    with Checkpoints(workdir, cfg) as checkpoints:
        checkpoints.save(13, after(13, state).items(), position | {"samples": [15]})
    longer = card_config(data_dir, train={"steps": 14})
    with pytest.raises(ConfigError, match=r"data\.name = 'plain_cards': the run was started on \[15\] samples"):
        train(longer, workdir, ONE_DEVICE)
