"""A model's folder of pictures, `ID.png` for each prompt: what is missing or odd in it, and what the arena serves."""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nami_jax.config import ConfigError, require, shown
from nami_jax.data.images import BrokenImageError, open_image
from nami_jax.nami1k.picture_files import MOST_PIXELS, read_file, read_png, without_metadata
from nami_jax.nami1k.prompt_set import PromptSet
from nami_jax.terminal.progress import progress_bar

SUFFIX, MANIFEST = ".png", "manifest.json"


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
    """Looks at every picture of a folder that belongs to a prompt, and decodes it.

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
            picture = open_image(read_png(folder / name), MOST_PIXELS)
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


@dataclasses.dataclass(frozen=True)
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
        content = read_file(self.folder / f"{prompt}{SUFFIX}")
        if len(content) != self.sizes[prompt]:
            raise OSError(f"{prompt}{SUFFIX} has changed")
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
    missing = [prompt for prompt in prompts if f"{prompt}{SUFFIX}" not in there]
    require(
        not missing,
        field="--images",
        value=str(folder),
        rule=f"lacks {len(missing)} of {len(prompts)} pictures: {', '.join(f'{name}.png' for name in missing[:5])}"
        + (" and more" if len(missing) > 5 else ""),
        remedy="Draw them, or give --prompts a file with those prompts only that all folders have",
    )


def _checked(folder: Path, prompt: str) -> bytes:
    path = folder / f"{prompt}{SUFFIX}"
    try:
        return read_png(path)
    except BrokenImageError as error:
        raise ConfigError(f"--images = {shown(str(path))}: {error.detail}. Replace it by a PNG.") from error
