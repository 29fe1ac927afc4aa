import re

import pytest

from benchmarks.plots import Curve, Mark, Panel, svg


def circles(picture):
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', picture)]


def test_equal_factors_are_equal_distances_on_both_axes():
    picture = svg([Panel("cost", "size", "seconds", [Curve("a", (1, 10, 100), (2, 4, 8))], ticks=(1, 10, 100))], "note")
    (x1, y1), (x2, y2), (x3, y3) = circles(picture)
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)  # of pixels, written to a tenth
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert y3 < y1


def test_panels_stand_side_by_side_and_curves_of_one_name_share_a_colour():
    curves = [Curve("a", (1, 2), (1, 2)), Curve("a", (1, 2), (1, 3), counted=True), Curve("b", (1, 2), (2, 1))]
    picture = svg([Panel(title, "x", "y", curves, (1, 2)) for title in ("left", "right")], "note")
    colours = re.findall(r'<polyline [^>]*stroke="(#\w+)"', picture)
    assert colours[0] == colours[1] != colours[2]
    xs = [x for x, _ in circles(picture)]
    assert max(xs[:4]) < min(xs[4:])


def test_words_are_escaped():
    assert "a &lt; b" in svg([Panel("t", "x", "y", [Curve("c", (1, 2), (1, 2))], (1,), [Mark("a < b", 1, 1)])], "note")
