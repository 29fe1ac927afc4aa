"""Pictures for people: arrays to PIL images, and captioned grids."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from nami_jax.files.disk import written_whole

CELL = 96  # smallest side at which an image is shown, pixels
GAP = 8
LINE = 12  # height of a line of caption
CAPTION_LINES = 2
COLUMNS = 8


def to_images(pixels: np.ndarray) -> list[Image.Image]:
    """Turns pixels (B, H, W, 3) in [-1, 1], or beyond, which is cut, into PIL images."""
    levels = np.clip(np.round((np.asarray(pixels) + 1) * 127.5), 0, 255).astype(np.uint8)
    return [Image.fromarray(level) for level in levels]


def grid(
    captions: Sequence[str], rows: Sequence[Sequence[Image.Image]], title: str = "", columns: int = COLUMNS
) -> Image.Image:
    """Lays images out in columns, each with its caption below.

    Args:
        captions: (N,) texts.
        rows: one or more sequences of N images; those of one caption stand one above the other.
        title: a line above everything.
        columns: captions per line.

    Returns:
        One RGB image; small images are enlarged by whole factors without smoothing.
    """
    side = max(rows[0][0].size)
    scale = max(1, CELL // side)
    cell_w, cell_h = rows[0][0].width * scale, rows[0][0].height * scale
    columns = min(columns, len(captions))
    head = 2 * LINE if title else 0
    line_h = len(rows) * (cell_h + 2) + CAPTION_LINES * LINE + GAP
    lines = -(-len(captions) // columns)
    sheet = Image.new("RGB", (GAP + columns * (cell_w + GAP), head + GAP + lines * line_h), (240, 240, 240))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=LINE - 2)
    draw.text((GAP, GAP // 2), title, fill=(0, 0, 0), font=ImageFont.load_default(size=LINE))
    for i, caption in enumerate(captions):
        x, y = GAP + (i % columns) * (cell_w + GAP), head + GAP + (i // columns) * line_h
        for row in rows:
            sheet.paste(row[i].resize((cell_w, cell_h), Image.Resampling.NEAREST), (x, y))
            y += cell_h + 2
        wrapped = textwrap.wrap(caption, width=max(cell_w // 5, 8), max_lines=CAPTION_LINES, placeholder="…")
        draw.text((x, y), "\n".join(wrapped), fill=(0, 0, 0), font=font, spacing=1)
    return sheet


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Puts pictures below one another."""
    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), (240, 240, 240))
    y = 0
    for picture in pictures:
        sheet.paste(picture, (0, y))
        y += picture.height
    return sheet


def save_png(picture: Image.Image, path: Path, about: Mapping[str, object]) -> None:
    """Saves a PNG whose text chunks hold `about` (prompt, seed, steps, checkpoint, ...); makes the folder."""
    info = PngInfo()
    for name, value in about.items():
        info.add_itxt(name, str(value))
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as unfinished:  # of a full disk or a kill nothing is left by that name
        picture.save(unfinished, "PNG", pnginfo=info)
