"""Pictures for people: arrays to PIL images, and captioned grids."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from nami_jax.files.disk import numbered, written_new, written_whole

CELL = 128  # smallest side at which an image is shown, pixels
GAP = 8
LINE = 16  # height of a line of caption
TITLE_LINE = 20
CAPTION_LINES = 2  # at least
COLUMNS = 8


def to_images(pixels: np.ndarray) -> list[Image.Image]:
    """Turns pixels (B, H, W, 3) in [-1, 1], or beyond, which is cut, into PIL images."""
    levels = np.clip(np.round((np.asarray(pixels) + 1) * 127.5), 0, 255).astype(np.uint8)
    return [Image.fromarray(level) for level in levels]


def grid(
    captions: Sequence[str], rows: Sequence[Sequence[Image.Image]], title: str = "", columns: int = COLUMNS
) -> Image.Image:
    """Lays images out in columns, each with its caption below; no text is cut.

    Args:
        captions: (N,) texts.
        rows: one or more sequences of N images; those of one caption stand one above the other.
        title: a text above everything.
        columns: captions per line.

    Returns:
        One RGB image; small images are enlarged by whole factors without smoothing, those of unlike sizes to one.
    """
    largest = max((picture for row in rows for picture in row), key=lambda picture: picture.size)
    scale = max(1, CELL // max(largest.size))
    cell_w, cell_h = largest.width * scale, largest.height * scale
    columns = min(columns, len(captions))
    width = GAP + columns * (cell_w + GAP)
    large, small = ImageFont.load_default(size=LINE), ImageFont.load_default(size=LINE - 2)
    titles = _wrapped(title, large, width - 2 * GAP)
    wrapped = [_wrapped(caption, small, cell_w) for caption in captions]
    head = len(titles) * TITLE_LINE + GAP if title else 0
    line_h = len(rows) * (cell_h + 2) + max(CAPTION_LINES, *map(len, wrapped)) * LINE + GAP
    lines = -(-len(captions) // columns)
    sheet = Image.new("RGB", (width, head + GAP + lines * line_h), (240, 240, 240))
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(titles):
        draw.text((GAP, GAP // 2 + i * TITLE_LINE), line, fill=(0, 0, 0), font=large)
    for i, words in enumerate(wrapped):
        x, y = GAP + (i % columns) * (cell_w + GAP), head + GAP + (i // columns) * line_h
        for row in rows:
            sheet.paste(row[i].resize((cell_w, cell_h), Image.Resampling.NEAREST), (x, y))
            y += cell_h + 2
        for j, line in enumerate(words):
            draw.text((x, y + j * LINE), line, fill=(0, 0, 0), font=small)
    return sheet


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """Returns the lines of a text that are at most `width` pixels wide; a word that is wider is broken."""
    for letters in range(max(width // 3, 1), 0, -1):
        lines = textwrap.wrap(text, letters)
        if all(font.getlength(line) <= width for line in lines):
            return lines
    return list(text)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as unfinished:
        unfinished.write_bytes(_png(picture, about))


def save_beside(picture: Image.Image, path: Path, about: Mapping[str, object]) -> Path:
    """Saves a PNG as `save_png` does, but replaces no other picture: then under a name with a number added.

    Returns:
        Where it is; a file that holds the same picture, with the same `about`, is left as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _png(picture, about)
    for candidate in numbered(path):
        if written_new(candidate, content) or (candidate.is_file() and candidate.read_bytes() == content):
            return candidate
    raise AssertionError("there is always another number")


def _png(picture: Image.Image, about: Mapping[str, object]) -> bytes:
    info = PngInfo()
    for name, value in about.items():
        info.add_itxt(name, str(value))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
