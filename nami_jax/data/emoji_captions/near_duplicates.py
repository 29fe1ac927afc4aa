"""Groups near-duplicates and splits the groups into training and held-out images.

A held-out picture tests nothing if its mirror image, its recoloured copy or the same person with other hair was trained
on. Two emoji are near-duplicates if their names are one concept, or if their pictures are almost the same.
"""

import collections
import hashlib
import re
from collections.abc import Iterable, Sequence

import einops
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nami_jax.data.emoji_captions.catalogue import Emoji, is_country

# Relative squared distance of two pictures. Below 0.03 lie mirrored, recoloured and slightly changed copies; the next
# nearest are chance look-alikes (0.035: a bagel and a cookie).
PIXEL_DISTANCE = 0.03
# Longer chains (yellow faces, blue buttons, clocks) stay in training whole.
LARGEST_HELD_OUT_GROUP = 8
# Of the groups small enough; about 5 % of all images.
HELD_OUT_SHARE = 0.06

_ROWS_AT_ONCE = 2048  # of the matrix of distances, which is not kept

_PERSON = r"\b(old(er)? )?((wo)?m[ae]n|person|people|(fe)?male|boy|girl|child|prince(ss)?|mrs\.|mx|santa)\b"
_LOOK = r"\b(red|white|curly|blond) hair\b|\b(bald|beard|facing right)\b"
_COLOUR = r"\b(light blue|black|white|brown|red|orange|yellow|green|blue|purple|pink|gr[ea]y|polar)\b"
_SERIES = (
    r".*(o’clock|-thirty)$",
    r"keycap .*",
    r".*\bmoon( face)?$",
    r".*\bmedal$",
    r"(family|couple with heart|kiss)\b.*",
    r".*\b(square|circle|diamond|hearts?)$",
    r".*\bbook$",
    r".*\bbutton( \(blood type\))?$",
    r".*\barrow$",
    r"sun behind.*",
    r"globe showing.*",
    r".*\bbanknote$",
    r"speaker .*|muted speaker",
    r"input .*",
    r".*mailbox.*",
    r"(un)?locked.*",
    r"mer(man|maid|person)",
    r".*monkey",
    r"(no|non-potable|prohibited)\b.*",
    r".*super(hero|villain)",
    r"sun(rise|set)\b.*|.* dusk",
    r"(aries|taurus|gemini|cancer|leo|virgo|libra|scorpio|sagittarius|capricorn|aquarius|pisces|ophiuchus)",
)


def concept(entry: Emoji) -> str:
    """Returns what an emoji shows without gender, age, hair, direction, colour or place in a series."""
    name = entry.name.lower()
    if is_country(entry.character):
        return entry.character
    for pattern in _SERIES:
        if re.fullmatch(pattern, name):
            return pattern
    if entry.category != "People & Body":
        name = re.sub(r" with(out)? .*", "", name)  # a camera with flash is a camera
    return " ".join(re.sub(f"{_PERSON}|{_LOOK}|{_COLOUR}", "", name).split())


def group_names(entries: list[Emoji]) -> dict[str, str]:
    """Returns each emoji's group, named by its first member: {character: name}."""
    near = near_pictures([entry.thumbnail for entry in entries])
    roots = connected(len(entries), [*_same_concept(entries), *_same_base(entries), *near])
    return {entry.character: entries[root].name for entry, root in zip(entries, roots, strict=True)}


def connected(count: int, links: Iterable[Sequence[int]]) -> list[int]:
    """Returns, for each of `count` items, the first item that a chain of `links` (pairs of items) connects it with."""
    pairs = np.array(list(links), int).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    _, first = np.unique(labels, return_index=True)  # of each label
    return first[labels].tolist()


def _same_concept(entries: list[Emoji]) -> list[tuple[int, int]]:
    first: dict[str, int] = {}
    return [(first.setdefault(concept(entry), i), i) for i, entry in enumerate(entries)]


def _same_base(entries: list[Emoji]) -> list[tuple[int, int]]:
    """Pairs each joined emoji with the one it starts with: a lime is a lemon and a green square. Not for people."""
    bare = {e.character.rstrip("\N{VARIATION SELECTOR-16}"): i for i, e in enumerate(entries)}
    bases = [e.character.split("\N{ZERO WIDTH JOINER}")[0].rstrip("\N{VARIATION SELECTOR-16}") for e in entries]
    return [(bare[b], i) for i, b in enumerate(bases) if b in bare and entries[i].category != "People & Body"]


def near_pictures(thumbnails: Sequence[np.ndarray]) -> np.ndarray:
    """Returns pairs (P, 2) of pictures, one perhaps mirrored, that are nearer than `PIXEL_DISTANCE`.

    Pictures are compared as 18 x 18 means of premultiplied RGBA, and the squared distance is relative to their squared
    sizes: a pale picture on the white ground would otherwise be near to every other.

    Args:
        thumbnails: each (72, 72, 4) uint8.
    """
    small = np.stack([_small(thumbnail) for thumbnail in thumbnails])  # (E, 18, 18, 4)
    flat, mirrored = (einops.rearrange(x, "e h w c -> e (h w c)") for x in (small, small[:, :, ::-1]))
    energy = np.square(flat).sum(axis=1)
    near = []
    for start in range(0, len(flat), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        likeness = np.maximum(flat[rows] @ flat.T, flat[rows] @ mirrored.T)
        distance = 1 - 2 * likeness / (energy[rows, None] + energy[None, :])
        rows_of, others = np.nonzero(np.triu(distance < PIXEL_DISTANCE, k=start + 1))
        near.append(np.stack([rows_of + start, others], axis=1))
    return np.concatenate(near)


def _small(thumbnail: np.ndarray) -> np.ndarray:
    rgba = thumbnail.astype(np.float32) / 255
    rgba[..., :3] *= rgba[..., 3:]
    return einops.reduce(rgba, "(h 4) (w 4) c -> h w c", "mean")


def held_out_groups(groups: dict[str, str]) -> set[str]:
    """Chooses the groups that training never sees, by a hash of each group's name alone."""
    sizes = collections.Counter(groups.values())
    return {g for g, n in sizes.items() if n <= LARGEST_HELD_OUT_GROUP and unit_hash(g) < HELD_OUT_SHARE}


def unit_hash(text: str) -> float:
    """Returns a number in [0, 1) that depends on the text only (Python's own hash differs from run to run)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
