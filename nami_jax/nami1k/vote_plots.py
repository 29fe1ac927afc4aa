"""The pictures of a report, as SVG that stands on light and dark pages alike."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's own colour of text
COLOURS = ("#3b82c4", "#d68910", "#2e9e6b", "#c0503f", "#8e6bbf", "#7a8b99", "#b5679a", "#8a9a2e")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "votes",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the page's font draws the text
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def draw_scores(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Draws a row for each group and model: the score and its interval.

    Args:
        groups: heading -> rows with model, value, low, high.
    """
    rows = [(name, i, row) for name, models in groups.items() for i, row in enumerate(models)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.8 + 0.24 * len(rows) + 0.12 * len(groups)), layout="constrained")
        axes = figure.add_subplot()
        at, heads, y = [], [], 0.0
        for name, i, row in rows:
            y += 1.0 if i else 1.6
            colour = COLOURS[i % len(COLOURS)]
            label = row["model"] if name == next(iter(groups)) else None
            axes.plot([row["low"], row["high"]], [y, y], color=colour, lw=2.2, solid_capstyle="round")
            axes.plot([row["value"]], [y], "o", color=colour, ms=6, label=label)
            if i == (len(groups[name]) - 1) // 2:
                at.append(y)
                heads.append(name)
        axes.axvline(50, color=INK, lw=0.8, alpha=0.4)
        axes.set_yticks(at, heads, parse_math=False)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(y + 0.9, 0.7)
        axes.set_xlabel("points: how often preferred, in a hundred")
        axes.grid(axis="x", color=INK, alpha=0.12)
        legend = figure.legend(loc="outside upper left", ncols=4, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
        return _svg(figure)


def draw_wins(report: Mapping[str, Any]) -> str:
    """Draws how often the row's model was preferred to the column's, in percent, and the number of their votes."""
    wins, ties, bad = (np.array(report[name]) for name in ("wins", "ties", "both_bad"))
    votes = wins + wins.T + ties + bad
    share = np.full(wins.shape, np.nan)
    np.divide(100 * (wins + (ties + bad) / 2), votes, out=share, where=votes > 0)
    models, number = report["models"], len(report["models"])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.6 + 0.9 * number, 1.2 + 0.7 * number), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(share, cmap="RdBu", vmin=0, vmax=100, alpha=0.55, aspect="auto")
        for i, j in np.argwhere(votes > 0).tolist():
            axes.text(j, i, f"{share[i, j]:.0f} %\nof {votes[i, j]}", ha="center", va="center", fontsize=9)
        names = [f"over {name}" for name in models]
        axes.set_xticks(range(number), names, rotation=25, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(number), models, parse_math=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return _svg(figure)
