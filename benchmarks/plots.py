"""Draws curves over logarithmic axes as SVG, a panel beside the other: all that the documents' figures need."""

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 400, 62, 18, 56, 50  # pixels of a panel, and its margins
COLOURS = "#1b6ca8", "#c0392b", "#1e8449", "#7d3c98"
FONT = "DejaVu Sans, Arial, Helvetica, sans-serif"


class Curve(NamedTuple):
    """Points, joined by a line. Curves of one name share its colour, and one entry of the legend."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    counted: bool = False  # dashed and without marks, where others are measured


class Mark(NamedTuple):
    """A point with words beside it."""

    text: str
    x: float
    y: float


class Panel(NamedTuple):
    """One pair of axes."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    ticks: Sequence[float]  # of x
    marks: Sequence[Mark] = ()


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Returns the logarithms of the smallest and the largest value, with room around them."""
    low, high = math.log(min(values)), math.log(max(values))
    room = max(0.06 * (high - low), 0.05)
    return low - room, high + room


def _steps(low: float, high: float) -> list[float]:
    """Returns round numbers between two logarithms: 1, 2, 5, 10, ..., or the powers of 10 if those are many."""
    found = [
        (factor, factor * 10.0**power)
        for power in range(math.floor(low / math.log(10)), math.ceil(high / math.log(10)) + 1)
        for factor in (1, 2, 5)
        if low <= math.log(factor * 10.0**power) <= high
    ]
    return [value for factor, value in found if factor == 1 or len(found) <= 9]


def _text(x: float, y: float, words: str, size: int = 13, anchor: str = "middle", extra: str = "") -> str:
    style = f'font-size="{size}" text-anchor="{anchor}" fill="#222" {extra}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def _panel(panel: Panel, offset: float) -> list[str]:
    points = [(x, y) for curve in panel.curves for x, y in zip(curve.x, curve.y, strict=True)]
    points += [(mark.x, mark.y) for mark in panel.marks]
    xs, ys = _ends([x for x, _ in points]), _ends([y for _, y in points])
    left, right, top, bottom = offset + LEFT, offset + WIDTH - RIGHT, TOP, HEIGHT - BOTTOM

    def across(x: float) -> float:
        return left + (right - left) * (math.log(x) - xs[0]) / (xs[1] - xs[0])

    def up(y: float) -> float:
        return bottom - (bottom - top) * (math.log(y) - ys[0]) / (ys[1] - ys[0])

    parts = [_text((left + right) / 2, 24, panel.title, 14, extra='font-weight="bold"')]
    for x in panel.ticks:
        parts.append(f'<path d="M{across(x):.1f} {top}V{bottom}" stroke="#ddd"/>')
        parts.append(_text(across(x), bottom + 17, f"{x:,g}", 12))
    for y in _steps(*ys):
        parts.append(f'<path d="M{left} {up(y):.1f}H{right}" stroke="#ddd"/>')
        parts.append(_text(left - 6, up(y) + 4, f"{y:,g}", 12, "end"))
    parts.append(
        f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" fill="none" stroke="#555"/>'
    )
    parts.append(_text((left + right) / 2, HEIGHT - 12, panel.x_label))
    turn = f'transform="rotate(-90 {offset + 16} {(top + bottom) / 2})"'
    parts.append(_text(offset + 16, (top + bottom) / 2, panel.y_label, extra=turn))
    names = list(dict.fromkeys(curve.name for curve in panel.curves))
    for curve in panel.curves:
        colour = COLOURS[names.index(curve.name) % len(COLOURS)]
        at = [(across(x), up(y)) for x, y in zip(curve.x, curve.y, strict=True)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        dashes = ' stroke-dasharray="6 4"' if curve.counted else ""
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        if not curve.counted:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in at]
    for i, name in enumerate(names if len(names) > 1 else []):
        y, colour = top + 18 + 18 * i, COLOURS[i % len(COLOURS)]
        parts.append(f'<path d="M{left + 12} {y - 4}h22" stroke="{colour}" stroke-width="3"/>')
        parts.append(_text(left + 40, y, name, 12, "start"))
    for mark in panel.marks:
        x, y = across(mark.x), up(mark.y)
        parts.append(f'<path d="M{x - 5:.1f} {y:.1f}h10M{x:.1f} {y - 5:.1f}v10" stroke="#222" stroke-width="2"/>')
        halo = 'stroke="#fff" stroke-width="4" paint-order="stroke"'
        parts.append(_text(x - 9, y + 4, mark.text, 11, "end", halo))
    return parts


def svg(panels: Sequence[Panel], note: str) -> str:
    """Returns the panels side by side as a picture, with a line of words above them."""
    width = WIDTH * len(panels)
    parts = [part for i, panel in enumerate(panels) for part in _panel(panel, WIDTH * i)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" font-family="{FONT}">'
    ground = f'<rect width="{width}" height="{HEIGHT}" fill="#ffffff"/>'
    return "\n".join([head, ground, _text(width / 2, 44, note, 12), *parts, "</svg>\n"])
