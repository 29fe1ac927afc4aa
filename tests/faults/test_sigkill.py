"""SIGKILL, which no program can prepare for, at random moments of a run."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.faults.commands import environment
from tests.support.paths import ROOT

SEED = 0


@pytest.mark.parametrize("count", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_a_run_killed_again_and_again_ends_bit_equal_to_an_undisturbed_one(tmp_path, count):
    command = [sys.executable, "-m", "tests.faults.killed_run", str(tmp_path), str(count), str(SEED)]
    run = subprocess.run(command, env=environment(tmp_path / "cache"), cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    kills, steps = report["kills"], [kill["step"] for kill in report["kills"]]
    print(f"{report['seconds']:.0f} s; newest checkpoint after each kill: {steps}")
    print(f"{sum(kill['in_save'] for kill in kills)} of {count} kills within a save")
    assert [kill["killed"] for kill in kills] == [True] * count  # and not one came after the run's end
    assert steps == sorted(steps)  # a finished checkpoint is never lost
    assert sum(kill["in_save"] for kill in kills) >= count // 5
    assert not (tmp_path / "parts" / "damaged").exists()
    with np.load(tmp_path / "whole.npz") as whole, np.load(tmp_path / "parts.npz") as parts:
        assert whole.keys() == parts.keys()
        for name, value in whole.items():
            np.testing.assert_array_equal(parts[name], value, err_msg=name)
