"""Generated pictures that copy a training picture, by perceptual hash and by the features of a network.

The hash (pHash: signs of the lowest frequencies, by `imagehash`) finds the same picture resized, recompressed or
slightly recoloured, also mirrored; the cosine of EfficientNet-Lite0's features also finds other crops. The training
set is read in chunks and only its best matches are kept.
"""

import dataclasses
import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import ImageOps

from nami_jax.config import require
from nami_jax.data.images import BrokenImageError
from nami_jax.nami1k.picture_files import open_picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
NEAR_BITS = 8  # of 64 that may differ; of pictures that have nothing in common about 30 do
ALIKE = 0.9  # cosine of features
CHUNK = 64
MOST_PAIRS = 10_000

Features = Callable[[Sequence[str]], np.ndarray]


@dataclasses.dataclass(frozen=True, order=True)
class Copy:
    """A generated picture and a training picture that it resembles.

    Attributes:
        score: 1 - share of the hash's bits that differ, or the cosine of features: the larger one.
        bits: of the hash that differ, the fewer of the picture and its mirror image.
        cosine: of features; None if they were not compared.
    """

    score: float
    generated: str
    training: str
    bits: int
    cosine: float | None


@dataclasses.dataclass
class ImageAudit:
    """What an audit of pictures found.

    Attributes:
        generated: pictures compared.
        training: pictures that they were compared with.
        copies: the strongest pairs, at most `MOST_PAIRS`.
        pairs: how many there are in all.
        unreadable: path -> why a picture could not be compared.
    """

    generated: int = 0
    training: int = 0
    copies: list[Copy] = dataclasses.field(default_factory=list)
    pairs: int = 0
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON, the strongest pairs first."""
        thresholds = {"bits": NEAR_BITS, "cosine": ALIKE}
        copies = [dataclasses.asdict(copy) for copy in sorted(self.copies, reverse=True)]
        return {**dataclasses.asdict(self), "thresholds": thresholds, "copies": copies}


@dataclasses.dataclass(frozen=True)
class Described:
    """Pictures that could be opened, as numbers."""

    paths: list[str]
    hashes: np.ndarray  # (n, 64) bool
    mirrored: np.ndarray  # (n, 64) bool, of their mirror images
    features: np.ndarray | None  # (n, D) float32 of length 1; None if none were asked for, or n is 0


def find_copies(generated: Path, training: Path, features: Features | None) -> ImageAudit:
    """Compares every picture of one folder with every picture of another.

    Args:
        generated: folder, with folders in it.
        training: folder, with folders in it; read once.
        features: n paths -> (n, D) of length 1; None: hashes alone.

    Raises:
        ConfigError: a folder is missing or holds no pictures.
    """
    found = ImageAudit()
    chunks = list(_described(picture_files(generated, "images"), features, found.unreadable))
    vectors = [chunk.features for chunk in chunks if chunk.features is not None]
    mine = Described(
        [path for chunk in chunks for path in chunk.paths],
        np.concatenate([chunk.hashes for chunk in chunks]),
        np.concatenate([chunk.mirrored for chunk in chunks]),
        np.concatenate(vectors) if vectors else None,
    )
    found.generated = len(mine.paths)
    for theirs in _described(picture_files(training, "training"), features, found.unreadable):
        found.training += len(theirs.paths)
        for copy in _pairs(mine, theirs):
            found.pairs += 1
            (heapq.heappush if len(found.copies) < MOST_PAIRS else heapq.heappushpop)(found.copies, copy)
    return found


def picture_files(folder: Path, field: str) -> list[Path]:
    """Returns the pictures of a folder and those in it; raises `ConfigError` if there are none."""
    remedy = f"Name a folder of pictures with --{field}"
    require(folder.is_dir(), field=field, value=str(folder), rule="is no folder", remedy=remedy)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    require(bool(files), field=field, value=str(folder), rule=f"holds none of {', '.join(SUFFIXES)}", remedy=remedy)
    return files


def _described(files: Iterable[Path], features: Features | None, unreadable: dict[str, str]) -> Iterator[Described]:
    """Yields pictures in chunks, of which those without any that opens are empty."""
    paths = list(files)
    for start in range(0, len(paths), CHUNK):
        good, hashes, mirrored = [], [], []
        for path in paths[start : start + CHUNK]:
            try:
                picture = open_picture(path)
            except BrokenImageError as error:
                unreadable[str(path)] = str(error)
                continue
            good.append(str(path))
            hashes.append(imagehash.phash(picture).hash.ravel())
            mirrored.append(imagehash.phash(ImageOps.mirror(picture)).hash.ravel())
        bits = [np.array(rows, bool).reshape(-1, 64) for rows in (hashes, mirrored)]
        vectors = features(good) if features is not None and good else None
        yield Described(good, bits[0], bits[1], vectors)


def _pairs(mine: Described, theirs: Described) -> Iterator[Copy]:
    """Yields the pairs that resemble each other."""
    if not mine.paths or not theirs.paths:
        return
    bits = np.minimum(_differing(mine.hashes, theirs.hashes), _differing(mine.mirrored, theirs.hashes))  # (n, m)
    cosines = None if mine.features is None or theirs.features is None else mine.features @ theirs.features.T
    near = (bits <= NEAR_BITS) if cosines is None else (bits <= NEAR_BITS) | (cosines >= ALIKE)
    for row, column in np.argwhere(near).tolist():
        cosine = None if cosines is None else round(float(cosines[row, column]), 4)
        count = int(bits[row, column])
        score = max(1 - count / 64, cosine or 0.0)
        yield Copy(score, mine.paths[row], theirs.paths[column], count, cosine)


def _differing(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns how many bits differ between each of n and each of m hashes, (n, m) int."""
    ours, others = first.astype(np.float32), second.astype(np.float32)
    return np.rint(ours.sum(1)[:, None] + others.sum(1)[None] - 2 * ours @ others.T).astype(int)
