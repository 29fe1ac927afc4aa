"""Files of pictures that may be anything, read without trust, and PNGs as raters get them.

A picture's header is read first: one of too many pixels is never decoded.
"""

import errno
import io
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from nami_jax.data.images import BrokenImageError, open_image

MOST_PIXELS = 2**26  # of a picture: 8192 x 8192
MOST_BYTES = 2**28
SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that say how pixels look. All others, such as the texts in which programs note their name and prompt, are left
# out of what a rater gets.
KEPT_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT")
SPOILED_SIDE = 768  # pixels, of the longer side at most
NOISE = 0.75  # share of noise in a noised picture


def read_file(path: Path, *, links: bool = False) -> bytes:
    """Reads a picture's file, which is no device or pipe and, unless `links`, no link; raises OSError if it is."""

    def open_plain(name: str, mode: int) -> int:
        try:
            return os.open(name, mode | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW))
        except OSError as error:
            if error.errno == errno.ELOOP and not links:
                raise OSError(0, "is a link, which may lead out of the folder") from error
            raise

    with open(path, "rb", opener=open_plain) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(0, "is not a file")
        if about.st_size > MOST_BYTES:
            raise OSError(0, f"has {about.st_size / 2**20:.0f} MiB, where a picture has {MOST_BYTES >> 20} at most")
        return file.read(MOST_BYTES)


def read_png(path: Path) -> bytes:
    """Reads a PNG after a look at its header, which says how much decoding it would take.

    Raises:
        BrokenImageError: it cannot be read, is no whole PNG, or has too many pixels.
    """
    try:
        content = read_file(path)
        without_metadata(content)  # else a file that was cut would be found by a rater
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # checked here
            with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
                width, height = picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or ("is no PNG" if "identify" in str(error) else str(error))
        raise BrokenImageError("unreadable image", reason) from error
    if width * height > MOST_PIXELS:
        size = f"has {width} x {height} pixels, where a picture has {MOST_PIXELS} at most"
        raise BrokenImageError("decompression bomb", size)
    return content


def open_picture(path: Path) -> Image.Image:
    """Decodes a picture of any format, as RGB; a link is followed.

    Raises:
        BrokenImageError: it is no plain file, too large on disk or in pixels, damaged, or no picture.
    """
    try:
        content = read_file(path, links=True)
    except OSError as error:
        raise BrokenImageError("unreadable image", error.strerror or str(error)) from error
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # refused by its header all the same
        return open_image(content, MOST_PIXELS)


def without_metadata(png: bytes) -> bytes:
    """Returns a PNG with only the chunks that say how its pixels look; raises OSError if it is damaged."""
    return SIGNATURE + b"".join(chunk for kind, chunk in _chunks(png) if kind in KEPT_CHUNKS)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not png.startswith(SIGNATURE):
        raise OSError("no PNG")
    at = len(SIGNATURE)
    while at < len(png):
        if len(png) < at + 12:
            raise OSError("PNG ends within a chunk")
        (length,) = struct.unpack_from(">I", png, at)
        end = at + 12 + length
        if end > len(png):
            raise OSError("PNG ends within a chunk")
        kind = png[at + 4 : at + 8]
        yield kind, png[at:end]
        if kind == b"IEND":
            return
        at = end
    raise OSError("PNG has no end")


def noised(png: bytes, seed: int) -> bytes:
    """Returns a picture under heavy noise, as PNG: the plainly worse one of an attention check."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
        picture = picture.convert("RGB")
    picture.thumbnail((SPOILED_SIDE, SPOILED_SIDE))
    noise = np.random.default_rng(seed).integers(0, 256, np.asarray(picture).shape)
    mixed = (1 - NOISE) * np.asarray(picture) + NOISE * noise
    buffer = io.BytesIO()
    Image.fromarray(mixed.astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
