"""Plots of a report: their text has the page's colour, and names are drawn as they are."""

from nami_jax.nami1k.vote_plots import INK, draw_scores, draw_wins

ROWS = [
    {"model": "cost $5 and $6", "value": 40.0, "low": 30.0, "high": 50.0},
    {"model": "模型", "value": 60.0, "low": 50.0, "high": 70.0},
]


def test_scores_in_the_colour_of_the_page():
    text = draw_scores({"overall": ROWS, "tag_$a$ (30)": ROWS})
    assert text.startswith("<svg")
    assert "currentColor" in text
    assert INK not in text
    for name in ("cost $5 and $6", "模型", "tag_$a$ (30)"):
        assert f">{name}</text>" in text
    assert text == draw_scores({"overall": ROWS, "tag_$a$ (30)": ROWS})


def test_wins_with_a_pair_that_nobody_saw():
    report = {
        "models": ["A", "B", "C"],
        "wins": [[0, 3, 0], [1, 0, 0], [0, 0, 0]],
        "ties": [[0, 2, 0], [2, 0, 0], [0] * 3],
    }
    text = draw_wins(report | {"both_bad": [[0] * 3] * 3})
    assert "67 %" in text  # (3 + 2 / 2) of 6
    assert "33 %" in text
    assert text.count("of 6") == 2
    assert "nan" not in text
