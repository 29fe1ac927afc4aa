"""Folders of pictures by models, `ID.png` for each prompt: looked at without decoding, and served without metadata."""

import errno
import hashlib
import io
import math
import os
import stat
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nami_jax.config import ConfigError, require, shown
from nami_jax.nami1k.image_folder import MOST_BYTES, MOST_PIXELS
from nami_jax.terminal.progress import progress_bar

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that say how pixels look. All others, such as the texts in which programs note their name and prompt, are left
# out of what a rater gets.
KEPT_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT")
SPOILED_SIDE = 768  # pixels, of the longer side at most
NOISE = 0.75  # share of noise in a noised picture


@dataclass(frozen=True)
class PictureFolder:
    """Pictures of one model: its name, folder, digest of all pictures, and the file sizes by prompt id."""

    name: str
    folder: Path
    digest: str
    sizes: Mapping[str, int]

    def read(self, prompt: str) -> bytes:
        """Returns a picture as PNG without metadata.

        Raises:
            OSError: it is not there any more, or was changed.
        """
        content = _read(self.folder, prompt)
        if len(content) != self.sizes[prompt]:
            raise OSError(f"{prompt}.png has changed")
        return without_metadata(content)


def read_folders(given: Sequence[str], prompts: Sequence[str]) -> list[PictureFolder]:
    """Opens the folders that `--images` names, and reads each picture once, for its digest.

    Args:
        given: "FOLDER", whose model is called as the folder is, or "NAME=FOLDER".
        prompts: ids, each of which needs a picture in each folder.

    Raises:
        ConfigError: fewer than two folders, two of one name, or a picture that is missing, too large or no PNG.
    """
    named = [_named(text) for text in given]
    names = [name for name, _ in named]
    require(
        len(named) >= 2,
        field="--images",
        value=list(given),
        rule="the arena needs two models at least",
        remedy="Give --images once for each model's folder",
    )
    require(
        len(set(names)) == len(names),
        field="--images",
        value=names,
        rule="two models have one name",
        remedy="Name them: --images NAME=FOLDER",
    )
    return [read_folder(name, folder, prompts) for name, folder in named]


def read_folder(name: str, folder: Path, prompts: Sequence[str]) -> PictureFolder:
    """Opens one folder; as `read_folders`."""
    _require_all(folder, prompts)
    digest, sizes = hashlib.sha256(), {}
    for prompt in progress_bar(prompts, desc=f"pictures of {name}", unit="picture"):
        content = _checked(folder, prompt)
        sizes[prompt] = len(content)
        digest.update(f"{prompt} {len(content)} ".encode() + hashlib.sha256(content).digest())
    return PictureFolder(name, folder, digest.hexdigest(), sizes)


def _named(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not separator:
        name, folder = Path(text).resolve().name, text
    require(
        0 < len(name) <= 64 and name.isprintable(),
        field="--images",
        value=text,
        rule="a model's name has 1 to 64 printable letters",
        remedy="Give --images NAME=FOLDER",
    )
    return name, Path(folder).resolve()


def _require_all(folder: Path, prompts: Sequence[str]) -> None:
    try:
        there = {entry.name for entry in os.scandir(folder)}
    except (OSError, ValueError) as error:
        reason = f"cannot be opened: {getattr(error, 'strerror', error)}"
        raise ConfigError(f"--images = {shown(str(folder))}: {reason}. Name a folder of pictures.") from error
    missing = [prompt for prompt in prompts if f"{prompt}.png" not in there]
    require(
        not missing,
        field="--images",
        value=str(folder),
        rule=f"lacks {len(missing)} of {len(prompts)} pictures: {', '.join(f'{name}.png' for name in missing[:5])}"
        + (" and more" if len(missing) > 5 else ""),
        remedy="Draw them, or give --prompts a file with those prompts only that all folders have",
    )


def _checked(folder: Path, prompt: str) -> bytes:
    """Returns the file after a look at its header, which says how much decoding it would take."""
    path = folder / f"{prompt}.png"
    try:
        content = _read(folder, prompt)
        without_metadata(content)  # else a file that was cut would be found by a rater
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # checked here
            with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
                sides = picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or ("is no PNG" if "identify" in str(error) else str(error))
        raise ConfigError(f"--images = {shown(str(path))}: {reason}. Replace it by a PNG.") from error
    require(
        math.prod(sides) <= MOST_PIXELS,
        field="--images",
        value=str(path),
        rule=f"has {sides[0]} x {sides[1]} pixels, where a picture has {MOST_PIXELS} at most",
        remedy="Make it smaller",
    )
    return content


def _read(folder: Path, prompt: str) -> bytes:
    """Reads a picture, which is a file of the folder itself: no link, device or pipe."""
    try:
        handle = os.open(folder / f"{prompt}.png", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(0, "is a link, which may lead out of the folder") from error
        raise
    with open(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(0, "is not a file")
        if about.st_size > MOST_BYTES:
            raise OSError(0, f"has {about.st_size / 2**20:.0f} MiB, where a picture has {MOST_BYTES >> 20} at most")
        return file.read(MOST_BYTES)


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
