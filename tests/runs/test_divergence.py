"""A run that is continued with a bad idea: what was good stays, and the command says so."""

import math
import shutil

import jax
import numpy as np
import pytest

from nami_jax.monitoring.metrics import NonFiniteError
from tests.support.runs import card_config, train

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


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("rate", [1e3, 1e39])  # the second is infinite in float32
def test_a_run_continued_twice_at_a_wild_rate_leaves_every_good_checkpoint_as_it_was(
    workdir, data_dir, rate, every, capsys
):
    before = contents(workdir / "checkpoints")
    wild = STEPS | {"phase_learning_rates": (rate,), "checkpoint_every": every, "keep_checkpoints": 1}
    for _ in range(2):
        with pytest.raises(NonFiniteError, match=r"as they were: \[6, 9\]\. .*continues from 9") as caught:
            train(card_config(data_dir, train=wild), workdir, ONE_DEVICE)
        assert "Lower train.phase_learning_rates" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert contents(workdir / "checkpoints") == before
    # What was saved before anything was known against it is not in the way, and not lost either.
    moved = sorted(path.name for path in workdir.glob("diverged/*"))
    assert moved == (["10", "10-2"] if every == 1 else [])
    assert "Not saved; in a row: 1" in capsys.readouterr().out or not math.isfinite(np.float32(rate))
