"""Intervals of simulated arenas hold what is true, and the sides' bias is found."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.arena_statistics import Size, World, check, simulated_ballots, summary, truth
from tests.support.paths import ROOT


def test_truth_without_spread_is_that_of_the_strengths():
    scores, sides = truth(World((0.5, -0.5), by_prompt=0, by_rater=0, side=0, side_spread=0, tie=0))
    assert scores == pytest.approx([100 / (1 + np.exp(-1)), 100 / (1 + np.exp(1))], abs=0.01)
    assert sides == pytest.approx(np.full((1, 2), 0.5))


def test_simulated_raters_vote_by_the_arena_and_pass_its_checks():
    ballots = simulated_ballots(World(side=5.0, side_spread=0), Size(20, 3, 40), seed=0)
    assert len(ballots) == 120
    assert {"pair", "shared", "noised", "other_prompt", "repeat"} == set(ballots.kind)
    counted = ballots.counted()
    assert (counted.answers == 0).mean() > 0.9  # they lean to the left


def found_in(world: World, size: Size, arenas: int, draws: int):
    rows = list(check(world, size, arenas, draws))
    return {(row["interval"], row["of"]): row for row in summary(rows)}


def test_few_arenas_hold_the_truth_and_a_plain_bias_is_found():
    found = found_in(World(side=0.6), Size(100, 8, 60), arenas=12, draws=100)
    for what in ("score", "difference", "side bias"):
        assert found["two-way", what]["coverage"] >= 0.8, what
        assert abs(found["two-way", what]["error"]) < 3
    assert found["independent", "score"]["coverage"] < found["two-way", "score"]["coverage"]
    assert found["two-way", "side bias"]["side found"] > 0.8


@pytest.mark.slow  # what docs/nami-1k-arena.md says
def test_intervals_hold_the_truth_as_often_as_they_say():
    found = found_in(World(), Size(), arenas=200, draws=200)
    for what in ("score", "difference", "side bias"):
        assert 0.92 <= found["two-way", what]["coverage"] <= 0.98, what
        assert abs(found["two-way", what]["error"]) < 0.5
    assert found["independent", "score"]["coverage"] < 0.9


def test_the_command_leaves_its_figures(tmp_path):
    flags = ["--arenas=2", "--prompts=20", "--raters=3", "--votes_each=20", "--draws=10"]
    command = [sys.executable, "-m", "benchmarks.arena_statistics", f"--out={tmp_path}", *flags]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "two-way" in run.stdout
    report = json.loads((tmp_path / "arena_statistics.json").read_text())
    assert report["size"] == {"prompts": 20, "raters": 3, "votes_each": 20}
    assert len(report["summary"]) == 6
    assert report["about"]["date"]
