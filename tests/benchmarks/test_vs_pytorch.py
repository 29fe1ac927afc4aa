import math

import pytest

from benchmarks import vs_pytorch

ROW = {
    "width": 512, "tokens": 1024, "passed": "forward", "dtype": "float32", "rounds": 7, "error": 2e-6,
    "ours ms": 75.0, "eager ms": 100.0, "to eager": 0.75,
}  # fmt: skip
SLOWER = ROW | {"passed": "training", "to eager": 1.5}
COMPILED = ROW | {"width": 128, "compiled ms": 50.0, "to compiled": 1.5, "to eager": 0.9}


def test_the_worst_ratio_is_that_of_forward_passes_to_eager_pytorch():
    assert vs_pytorch.worst([ROW, COMPILED, SLOWER]) == 0.9
    left_out = {"width": 1024, "tokens": 4096, "passed": "forward", "dtype": "float32", "left out": "too large"}
    assert vs_pytorch.worst([ROW, left_out]) == 0.75
    assert vs_pytorch.lines([left_out]).splitlines()[-1] == "left out: too large"
    assert math.isnan(vs_pytorch.worst([SLOWER]))


def test_a_row_without_a_compiler_has_no_figure_for_it_and_says_why():
    *_, plain, compiled, note = vs_pytorch.lines([ROW | {"not compiled": "no g++"}, COMPILED]).splitlines()
    assert plain.split() == ["512", "1024", "forward", "7", "75.0", "100.0", "-", "0.75", "-", "2.0e-06"]
    assert compiled.split()[4:] == ["75.0", "100.0", "50.0", "0.90", "1.50", "2.0e-06"]
    assert note == "not compiled: no g++"


@pytest.mark.parametrize(("tokens", "side"), [(256, 32), (1024, 64), (4096, 128)])
def test_a_cell_has_its_image_tokens_and_width(tokens, side):
    cell = vs_pytorch.Cell(128, tokens, "forward", "float32")
    assert cell.model.image_tokens(side, side) == (tokens,)
    assert (cell.side, cell.model.width) == (side, 128)
