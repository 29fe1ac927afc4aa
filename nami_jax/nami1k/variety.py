"""How long and how varied the texts of a set are, and how often one is nearly another.

Sets of unlike size are compared on equal parts, drawn at random: each of these numbers depends on how much one reads.
"""

import dataclasses
import random
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from nami_jax.nami1k.leaks import ALIKE, Vectors, in_vectors
from nami_jax.nami1k.overlap import near_duplicates
from nami_jax.nami1k.prompt_set import plain

MOST_TEXTS = 1000
WINDOW = 500  # words
QUANTILES = (0, 25, 50, 75, 100)


@dataclasses.dataclass(frozen=True)
class Variety:
    """What is told of a set of texts.

    Attributes:
        texts: how many were read.
        words: at the least, at a quarter, half and three quarters of the texts, and at most.
        distinct: share of distinct words among `WINDOW` that follow each other, on average: type/token.
        compression: letters' bytes to zlib's; the same phrases again and again make it high.
        same_words: share of texts that share half of their word sequences with another.
        alike: share of texts whose nearest other one has a cosine of at least `leaks.ALIKE`; None without embeddings.
        nearest: each text's cosine with the nearest other one.
    """

    texts: int
    words: tuple[int, ...]
    distinct: float
    compression: float
    same_words: float
    alike: float | None
    nearest: np.ndarray = dataclasses.field(repr=False)  # (texts,); (0,) without embeddings

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON, without the single cosines."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "nearest"}
        return fields | {"median_nearest": float(np.median(self.nearest)) if len(self.nearest) else None}


def equal_parts(sets: Sequence[Sequence[str]]) -> list[list[str]]:
    """Draws the same number of texts, at most `MOST_TEXTS`, from each set."""
    size = min(MOST_TEXTS, *map(len, sets))
    return [random.Random(0).sample(list(texts), size) for texts in sets]


def measure(texts: Sequence[str], letters: int, vectors: Vectors | None) -> Variety:
    """Measures a set.

    Args:
        texts: at least one.
        letters: bytes of text that are compressed, the same for sets that are compared.
        vectors: n English texts -> (n, D) of length 1; None: no embeddings.
    """
    twins = {number for pair in near_duplicates(texts) for number in pair}
    nearest = np.zeros(0)
    if vectors is not None and len(texts) > 1:
        matrix = in_vectors(texts, vectors)
        cosines = matrix @ matrix.T
        np.fill_diagonal(cosines, -1)
        nearest = cosines.max(1)
    counts = [len(text.split()) for text in texts]
    return Variety(
        texts=len(texts),
        words=tuple(int(count) for count in np.percentile(counts, QUANTILES)),
        distinct=type_token(texts),
        compression=compression(texts, letters),
        same_words=len(twins) / len(texts),
        alike=float((nearest >= ALIKE).mean()) if len(nearest) else None,
        nearest=nearest,
    )


def type_token(texts: Sequence[str]) -> float:
    """Returns the share of distinct words in a window of `WINDOW` words, averaged over windows side by side."""
    words = [word for text in texts for word in plain(text).split()]
    starts = range(0, max(len(words) - WINDOW, 0) + 1, WINDOW)
    windows = [words[start : start + WINDOW] for start in starts]
    return float(np.mean([len(set(window)) / max(len(window), 1) for window in windows]))


def compression(texts: Sequence[str], letters: int) -> float:
    """Returns how many times shorter zlib makes the first `letters` bytes of the texts, a line each."""
    whole = "\n".join(texts).encode()[:letters]
    return len(whole) / len(zlib.compress(whole, 9))
