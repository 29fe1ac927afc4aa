"""A command that draws ends in one line for what a user can mend, and shows where it was raised for all else."""

import errno

import pytest

from nami_jax.checkpoints.checkpoint import CheckpointError
from nami_jax.config import ConfigError
from nami_jax.sampling.pipeline_command import pipeline_command
from nami_jax.weights import WeightsError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("side = 3: is odd. Set 4."), "error: side = 3: is odd. Set 4."),
        (CheckpointError("damaged"), "error: damaged"),
        (WeightsError("missing"), "error: missing"),
        (ModuleNotFoundError("no torch"), "error: no torch"),
        (OSError(errno.ENOSPC, "No space left", "out"), "error: out: No space left. Free space there."),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, line):
    with pytest.raises(SystemExit) as ended, pipeline_command():
        raise error
    assert ended.value.code == line
    assert ended.value.__cause__ is error


def test_a_fault_of_ours_passes_through():
    with pytest.raises(ZeroDivisionError), pipeline_command():
        raise ZeroDivisionError
