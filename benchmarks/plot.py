"""Draws points with error bars in panels side by side, as a PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 560, 420, 70, 50, 20  # of a panel, pixels
GREY, BLACK, BLUE = (170, 170, 170), (30, 30, 30), (30, 90, 200)


class Mark(NamedTuple):
    """A point; `error` draws a bar up and down, `label` makes it stand out."""

    x: float
    y: float
    error: float | None = None
    label: str = ""


def ticks(low: float, high: float) -> list[float]:
    """Returns four to nine round numbers between two."""
    step = 10.0 ** np.floor(np.log10(high - low))
    step = next(step * share for share in (1.0, 0.5, 0.2, 0.1) if (high - low) / (step * share) >= 4)
    return [float(n * step) for n in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def draw_plot(panels: Mapping[str, Sequence[Mark]], ylabel: str, path: Path) -> None:
    """Draws panels that share what is upwards.

    Args:
        panels: title of the axis to the right -> points.
        ylabel: of the axis upwards.
        path: of the PNG.
    """
    every = [mark for marks in panels.values() for mark in marks]
    low, high = min(m.y - (m.error or 0) for m in every), max(m.y + (m.error or 0) for m in every)
    pad = 0.08 * (high - low) or 1.0
    image = Image.new("RGB", (WIDTH * len(panels), HEIGHT), "white")
    for i, (title, marks) in enumerate(panels.items()):
        xs = [m.x for m in marks]
        reach = 0.1 * (max(xs) - min(xs)) or 1.0
        box = (min(xs) - reach, max(xs) + 2 * reach, low - pad, high + pad)
        _panel(ImageDraw.Draw(image), i * WIDTH, title, ylabel, marks, box)
    image.save(path)


def _panel(draw: ImageDraw.ImageDraw, x0: int, title: str, ylabel: str, marks: Sequence[Mark], box: tuple) -> None:
    left, right, low, high = box

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - left) / (right - left), (y - low) / (high - low)
        return (
            x0 + LEFT + across * (WIDTH - LEFT - MARGIN),
            HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - MARGIN),
        )

    draw.rectangle((place(left, high), place(right, low)), outline=BLACK)
    for x in ticks(left, right):
        px, py = place(x, low)
        draw.line((px, py, px, py + 4), fill=BLACK)
        draw.text((px, py + 6), f"{x:g}", fill=BLACK, anchor="mt")
    for y in ticks(low, high):
        px, py = place(left, y)
        draw.line((px - 4, py, px, py), fill=BLACK)
        draw.text((px - 6, py), f"{y:g}", fill=BLACK, anchor="rm")
    if low < 0 < high:
        draw.line((place(left, 0), place(right, 0)), fill=GREY)
    draw.text((x0 + (WIDTH + LEFT) / 2, HEIGHT - 12), title, fill=BLACK, anchor="mb")
    draw.text((x0 + 6, 4), ylabel, fill=BLACK)
    for mark in sorted(marks, key=lambda m: bool(m.label)):
        (px, py), colour, radius = place(mark.x, mark.y), BLUE if mark.label else GREY, 4 if mark.label else 2
        if mark.error is not None:
            draw.line((place(mark.x, mark.y - mark.error), place(mark.x, mark.y + mark.error)), fill=colour, width=2)
        draw.ellipse((px - radius, py - radius, px + radius, py + radius), fill=colour)
        draw.text((px + 8, py - 8), mark.label, fill=BLUE)
