"""A run that is continued with a bad idea: what was good stays, and the command says so."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.checkpoints.checkpoint import CheckpointError, Checkpoints
from nami_jax.config import ConfigError
from nami_jax.monitoring.metrics import NonFiniteError
from nami_jax.training.flow_task import FlowTask
from tests.support.runs import card_config, numbers, restored, train

ONE_DEVICE = jax.devices()[:1]
STEPS = {"steps": 14, "checkpoint_every": 3, "eval_every": 3, "sample_every": 100, "log_every": 100, "keep_best": 0}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def begun(data_dir, tmp_path_factory):
    """A run of fourteen steps of which nine are done; steps 6 and 9 are saved."""
    workdir = tmp_path_factory.mktemp("runs") / "begun"
    train(card_config(data_dir, train=STEPS), workdir, ONE_DEVICE, stop_after=9)
    return workdir


@pytest.fixture
def workdir(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("rate", "every"), [(1e3, 1), (30.0, 3)])
def test_a_run_continued_twice_at_a_wild_rate_leaves_every_good_checkpoint_as_it_was(
    workdir, data_dir, rate, every, capsys
):
    # Saved after each step, step 10 is saved before anything is known against it.
    kept, moved = ([9], ["10", "10-2"]) if every == 1 else ([6, 9], [])
    before = {step: contents(workdir / "checkpoints" / str(step)) for step in kept}
    wild = STEPS | {"phase_learning_rates": (rate,), "checkpoint_every": every, "max_skipped_steps": 3}
    for _ in range(2):
        with pytest.raises(NonFiniteError) as caught:
            train(card_config(data_dir, train=wild), workdir, ONE_DEVICE)
        assert re.search(r"step 13: the loss is .* in a row: 3\. Lower train\.phase_learning", str(caught.value))
        assert f"are as they were: {kept}. The same command continues from 9." in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert {int(path.name): contents(path) for path in (workdir / "checkpoints").iterdir()} == before
    assert sorted(path.name for path in workdir.glob("diverged/*")) == moved
    assert ("Not saved; in a row: 2" in capsys.readouterr().out) == (rate == 30.0)  # the other is not finite


def test_a_continued_run_goes_on_bit_equal_after_a_wild_one(workdir, begun, data_dir, tmp_path):
    wild = card_config(data_dir, train=STEPS | {"phase_learning_rates": (1e3,), "max_skipped_steps": 2})
    with pytest.raises(NonFiniteError):
        train(wild, workdir, ONE_DEVICE)
    undisturbed = shutil.copytree(begun, tmp_path / "undisturbed")
    found, expected = (
        numbers(train(card_config(data_dir, train=STEPS), w, ONE_DEVICE)) for w in (workdir, undisturbed)
    )
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_the_last_state_of_a_run_is_judged_by_its_validation(workdir, data_dir):
    wild = card_config(data_dir, train=STEPS | {"phase_learning_rates": (1e3,)})
    with pytest.raises(
        NonFiniteError, match=r"step 10: the validation loss is .* not saved\. .*as they were: \[6, 9\]"
    ):
        train(wild, workdir, ONE_DEVICE, stop_after=10)


def test_what_is_saved_says_how_far_its_loss_goes_and_old_checkpoints_need_not(workdir, data_dir):
    cfg = card_config(data_dir, train=STEPS)
    with Checkpoints(workdir, cfg) as checkpoints:
        state, position = restored(checkpoints, FlowTask(cfg, ONE_DEVICE))
        assert position["losses"]["training"]["count"] == 9
        assert position["losses"]["validation"]["count"] == 3
        del position["losses"]
        checkpoints.save(10, dataclasses.replace(state, step=jnp.int32(10)).items(), position)
    assert int(train(cfg, workdir, ONE_DEVICE, stop_after=11).step) == 11


def test_checkpoints_of_so_many_steps_the_best_and_the_beginning_stay_besides_the_newest(workdir, data_dir):
    kept = STEPS | {"keep_every": 12, "steps": 16, "eval_every": 1, "checkpoint_every": 1, "keep_best": 1}
    train(card_config(data_dir, train=kept), workdir, ONE_DEVICE)
    left = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    losses = {step: json.loads((workdir / f"checkpoints/{step}/metrics/metrics").read_text()) for step in left}
    best = min(left, key=lambda step: losses[step]["validation_loss"])
    assert set(left) == {9, 12, 15, 16, best}


def test_a_folder_of_a_later_step_is_no_checkpoint(workdir, data_dir, caplog):
    shutil.copytree(workdir / "checkpoints" / "6", workdir / "checkpoints" / "99")
    train(card_config(data_dir, train=STEPS), workdir, ONE_DEVICE, stop_after=11)
    assert "checkpoints/99 contains the state after step 6, not 99: was it renamed? Using the one before" in caplog.text
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"9", "11"}
    assert [path.name for path in (workdir / "damaged").iterdir()] == ["99"]


def test_a_save_that_is_not_made_is_an_error(workdir, data_dir):
    cfg = card_config(data_dir, train=STEPS)
    with Checkpoints(workdir, cfg) as checkpoints:
        state, position = restored(checkpoints, FlowTask(cfg, ONE_DEVICE))
        with pytest.raises(CheckpointError, match=r"step 8 was not saved, for the folder contains \[6, 9\]"):
            checkpoints.save(8, state.items(), position)


def test_a_run_is_not_continued_with_another_text_encoder(workdir, data_dir):
    with Checkpoints(workdir, card_config(data_dir, train=STEPS)) as checkpoints:
        checkpoints.use_networks({"autoencoder": "of which nothing is known"})
        with pytest.raises(
            ConfigError, match=r"fingerprint of another text encoder than the run in .*/run was trained"
        ):
            checkpoints.use_networks({"text_encoder": "another"})
