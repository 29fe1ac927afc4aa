"""A folder of pictures named by prompts, `ID.png`: what is missing in it, and what is odd, found without trust in it.

A picture's header is read first: one of too many pixels is never decoded.
"""

import collections
import dataclasses
import hashlib
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nami_jax.config import require
from nami_jax.data.images import BrokenImageError, open_image
from nami_jax.nami1k.prompt_set import PromptSet

SUFFIX, MANIFEST = ".png", "manifest.json"
MOST_PIXELS = 2**26  # of a picture: 8192 x 8192
MOST_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class FolderCheck:
    """What a folder of pictures holds.

    Attributes:
        missing: ids that have no picture.
        odd: file name -> what is wrong with it.
        extra: names that belong to no prompt, but for the manifest that `generate` leaves.
        sizes: "WIDTHxHEIGHT" -> how many pictures have it.
    """

    missing: list[str]
    odd: dict[str, str]
    extra: list[str]
    sizes: dict[str, int]

    @property
    def good(self) -> bool:
        """Whether every prompt has a picture and none is odd."""
        return not self.missing and not self.odd

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return dataclasses.asdict(self)


def check_folder(folder: Path, prompts: PromptSet) -> FolderCheck:
    """Looks at every picture of a folder that belongs to a prompt.

    Raises:
        ConfigError: the folder is missing.
    """
    remedy = "Name the folder of a model's pictures"
    require(folder.is_dir(), field="folder", value=str(folder), rule="is no folder", remedy=remedy)
    ids = {f"{prompt.id}{SUFFIX}": prompt.id for prompt in prompts.prompts}
    there = {path.name for path in folder.iterdir()}
    odd: dict[str, str] = {}
    sizes: dict[str, str] = {}
    first: dict[bytes, str] = {}  # picture of these pixels
    for name in sorted(ids.keys() & there):
        try:
            picture = open_picture(folder / name, inside=folder)
        except BrokenImageError as error:
            odd[name] = str(error)
            continue
        sizes[name] = f"{picture.width}x{picture.height}"
        pixels = np.asarray(picture)  # (H, W, 3)
        same = first.setdefault(hashlib.sha256(pixels.tobytes()).digest(), name)
        if (pixels == pixels[0, 0]).all():
            odd[name] = "is all of one colour"
        elif same != name:
            odd[name] = f"is the same picture as {same}"
    counts = collections.Counter(sizes.values())
    usual = max(counts, key=counts.__getitem__, default="")
    for name, size in sizes.items():
        if size != usual:
            odd.setdefault(name, f"has {size} pixels where most have {usual}")
    missing = [prompt for name, prompt in ids.items() if name not in there]
    return FolderCheck(missing, odd, sorted(there - ids.keys() - {MANIFEST}), dict(counts.most_common()))


def open_picture(path: Path, inside: Path | None = None) -> Image.Image:
    """Decodes a picture that may be anything, as RGB.

    Args:
        path: of the picture.
        inside: a folder that a link must not lead out of; None: anywhere.

    Raises:
        BrokenImageError: it is no plain file, too large on disk or in pixels, damaged, no picture, or elsewhere.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BrokenImageError("unreadable image", "is no file")
        if inside is not None and not path.resolve().is_relative_to(inside.resolve()):
            raise BrokenImageError("unreadable image", "is a link that leads out of the folder")
        if status.st_size > MOST_BYTES:
            raise BrokenImageError("unreadable image", f"{status.st_size} bytes, at most {MOST_BYTES} are read")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # refused by its header all the same
            return open_image(path.read_bytes(), MOST_PIXELS)
    except OSError as error:
        raise BrokenImageError("unreadable image", error.strerror or str(error)) from error
