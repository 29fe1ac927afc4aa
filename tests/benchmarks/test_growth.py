import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import growth
from benchmarks.growth import BASE, GROWN, NAMI_STAGES, TINY, nami_rows
from tests.support.paths import ROOT

GROWTH = [
    {"grown": name, "factor": factor, "TFLOP": factor, "seconds": 2 * factor} for name in GROWN for factor in (1, 2)
]
STAGED = [{"stages": k, "steps": 12, "TFLOP": 3 / k, "seconds": 6 / k} for k in (1, 2, 3, 4)]


def test_counted_cost_of_nami_2b_is_what_was_published():
    found = {(row["stages"], row["pixels"]): row["TFLOP"] for row in nami_rows()}
    assert {k: found[k, 1024] for k in growth.PUBLISHED} == pytest.approx(growth.PUBLISHED, rel=0.003)
    assert sorted(found) == [(k, pixels) for k in NAMI_STAGES for pixels in (256, 512, 1024, 2048)]
    assert [found[k, 2048] for k in (1, 2, 3, 4)] == sorted((found[k, 2048] for k in (1, 2, 3, 4)), reverse=True)


def test_the_base_of_the_growth_is_among_the_sizes():
    assert all(1 in multiples for multiples in growth.FACTORS.values())
    assert BASE.model.width == BASE.width
    assert BASE.model.double_blocks + BASE.model.stage_single_blocks[0] == BASE.depth


@pytest.mark.slow
def test_forward_passes_are_measured_and_counted_by_the_size_that_grew():
    base, twice = growth.passes(TINY, {"batch": (1, 2)}, rounds=1)
    assert (base["batch"], twice["batch"]) == (1, 2)
    assert twice["TFLOP"] == 2 * base["TFLOP"]
    assert min(base["seconds"], twice["seconds"]) > 0


def test_the_figure_has_a_solid_line_for_what_was_measured_and_a_dashed_one_for_what_was_counted():
    drawn = growth.figure(GROWTH, STAGED, list(nami_rows()), {"device": "a chip", "date": "2026-11-26"})
    lines = [line for axes in drawn.axes for line in axes.lines]
    solid, dashed = ([line for line in lines if line.get_linestyle() == style] for style in ("-", "--"))
    assert len(solid) == len(GROWN) + 1
    assert len(dashed) == len(GROWN) + 1 + len(NAMI_STAGES)
    np.testing.assert_allclose(np.asarray(solid[0].get_ydata()), [1, 2])  # relative to the base
    assert "a chip, 2026-11-26" in drawn.get_suptitle()
    assert "published: 316 " in {text.get_text() for axes in drawn.axes for text in axes.texts}


@pytest.mark.slow
def test_the_command_leaves_its_figures_and_their_picture(tmp_path):
    command = [sys.executable, "-m", "benchmarks.growth", f"--out={tmp_path}", "--tiny", "--rounds=1"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found = json.loads((tmp_path / "growth.json").read_text())
    assert [row["stages"] for row in found["stages"]] == [1, 2, 3, 4]
    assert min(row["seconds"] for row in found["passes"] + found["stages"]) > 0
    assert "<svg" in (tmp_path / "growth.svg").read_text()
