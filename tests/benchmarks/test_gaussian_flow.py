"""What windows, targets, jumps and solvers do together, held to what is known exactly of Gaussian images."""

import functools
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from benchmarks import gaussian_flow
from benchmarks.gaussian_flow import Flow, Gaussian, affine, least_from_rank, smooth_images, wasserstein
from nami_jax.config import SampleConfig
from nami_jax.flow.resize import pool, upsample
from nami_jax.flow.solver import SOLVERS
from tests.support.paths import ROOT

IMAGES = smooth_images(8)
RENOISE = None


@functools.cache
def flow_of(stages: int, share: float | None) -> Flow:
    return Flow(IMAGES, stages, share)


def distance(stages: int, share: float | None, steps: int, solver: Any = "midpoint") -> float:
    return wasserstein(flow_of(stages, share).sampled(SampleConfig((steps,) * stages, solver=solver)), IMAGES)


def test_distance_worked_by_hand():
    one, other = Gaussian(np.zeros(2), np.diag([1.0, 4.0])), Gaussian(np.array([3.0, 0.0]), np.diag([4.0, 0.0]))
    assert wasserstein(one, one) == pytest.approx(0, abs=1e-7)
    assert wasserstein(one, other) == pytest.approx(np.sqrt((9 + 1 + 4) / 2))  # means, and (1 - 2)^2, (2 - 0)^2
    assert least_from_rank(one, 1) == pytest.approx(np.sqrt(1 / 2))


def test_an_affine_function_is_taken_apart():
    at_zero, (of_x, of_y) = affine(lambda x, y: 3 * upsample(x) - y + 5, (1, 1, 1), (2, 2, 1))
    np.testing.assert_array_equal(at_zero, np.full(4, 5.0))
    np.testing.assert_array_equal(of_x, np.full((4, 1), 3.0))
    np.testing.assert_array_equal(of_y, -np.eye(4))


def test_images_have_the_deviation_asked_for_and_are_smooth():
    np.testing.assert_allclose(np.diag(IMAGES.covariance), 1)
    np.testing.assert_allclose(smooth_images(8, std=0.5).covariance, IMAGES.covariance / 4)
    assert least_from_rank(smooth_images(8, power=4), 16) < least_from_rank(IMAGES, 16)
    _, (pooling,) = affine(pool, (8, 8, 1))
    kept = np.trace(pooling @ IMAGES.covariance @ pooling.T) / 16
    assert 0.5 < kept < 0.9  # white noise keeps 1/4 of its variance, and an image of one colour all


@pytest.mark.parametrize(("stages", "share"), [(1, RENOISE), (2, RENOISE), (3, RENOISE), (4, RENOISE), (3, 0.5)])
def test_samples_are_distributed_as_the_images(stages, share):
    coarse, fine = (distance(stages, share, steps) for steps in (8, 32))
    assert fine < 1e-3
    assert fine < coarse / 8  # second order: 16


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("midpoint", 2), ("ab2", 2)])
def test_each_solver_converges_by_its_order(solver, order):
    assert distance(2, RENOISE, 32, solver) < distance(2, RENOISE, 16, solver) / 2 ** (order - 0.3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_all_of_the_noise_after_the_best_bridge_is_renoising(solver):
    flows = [flow_of(3, share).sampled(SampleConfig((3, 2, 1), solver=solver)) for share in (RENOISE, 1.0)]
    np.testing.assert_allclose(flows[0].mean, flows[1].mean, atol=1e-6)
    np.testing.assert_allclose(flows[0].covariance, flows[1].covariance, atol=1e-6)


def test_without_noise_a_bridged_start_gives_the_mean_of_the_fine_parts_alone():
    flow = flow_of(2, 0.0)
    found = flow.sampled(SampleConfig((32, 32)))
    assert (np.linalg.eigvalsh(found.covariance) > 1e-9).sum() == 16  # the values of the first noise, 4x4
    assert distance(2, 0.0, 32) > least_from_rank(IMAGES, 16) > 0.6
    # At the end: what lies inside the blocks is the gain of a regression on the start, times the start, and no more.
    start, end = (flow.velocities[1].joint[i, :, i] for i in (0, 1))
    both = flow.velocities[1].joint[1, :, 0]
    inside = np.eye(64) - affine(lambda x: upsample(pool(x)), (8, 8, 1))[1][0]
    known = inside @ both @ np.linalg.pinv(start, rcond=1e-9, hermitian=True) @ both.T @ inside
    np.testing.assert_allclose(inside @ found.covariance @ inside, known, atol=0.02)
    assert np.trace(inside @ end @ inside) > 1.5 * np.trace(known)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_any_noise_brings_what_is_missing(share):
    coarse, fine = (distance(2, share, steps) for steps in (16, 64))
    assert fine < min(coarse / 5, 0.05)


def test_the_table_and_the_picture_show_every_measurement():
    rows = list(gaussian_flow.measure(smooth_images(4), (1, 2), (1, 2)))
    assert len(rows) == (1 + 5) * len(SOLVERS) * 2
    assert {row["least"] > 0 for row in rows if row["jump"] == "bridge, q = 0"} == {True}
    assert len(gaussian_flow.text(rows).splitlines()) == 2 + 6 * len(SOLVERS)
    drawn = gaussian_flow.figure(rows, {"date": "2026-11-26"}, stages=2)
    assert [len(axes.lines) for axes in drawn.axes] == [5] * len(SOLVERS)


@pytest.mark.slow
def test_the_command_leaves_its_figures_and_their_picture(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gaussian_flow", f"--out={tmp_path}", "--tiny"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found = json.loads((tmp_path / "gaussian_flow.json").read_text())
    assert [row["stages"] for row in found["distances"]] == [1] * 8 + [2] * 40
    assert "<svg" in (tmp_path / "gaussian_flow.svg").read_text()
