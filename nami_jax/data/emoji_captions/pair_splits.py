"""Splits concepts x styles: whole concepts are held out, and pairs whose concept training sees in other styles.

Pictures are cut into units that stay together: what a style draws for a group of near-duplicate concepts, joined with
every unit that has a nearly equal picture in whatever style. So no held-out picture has a near-duplicate in training.
"""

import collections
from collections.abc import Sequence

import numpy as np

from nami_jax.data.emoji_captions import near_duplicates
from nami_jax.data.emoji_captions.near_duplicates import LARGEST_HELD_OUT_GROUP, unit_hash
from nami_jax.data.emoji_captions.styled_pictures import StyledPicture

TRAIN, HELD_OUT_PAIRS, HELD_OUT = SPLITS = ("train", "held_out_pairs", "held_out")
# Of the units small enough; a tenth of the pictures whose concepts are in training.
HELD_OUT_PAIRS_SHARE = 0.17
LEAST_UNITS_IN_TRAINING = 2  # of a concept: as many styles, and not nearly equal ones


def split_pictures(pictures: Sequence[StyledPicture], groups: dict[str, str]) -> list[str]:
    """Returns the split of each picture, by hashes of names alone.

    Args:
        pictures: all styles' pictures, in the order of their concepts.
        groups: of all concepts in Twemoji: {character: name}, as `near_duplicates.group_names` returns.
    """
    near = near_duplicates.near_pictures([picture.drawn.thumbnail for picture in pictures])
    unseen = _held_out_concepts(pictures, groups, near)
    units = _units(pictures, groups, near)
    seen = [i for i, picture in enumerate(pictures) if picture.concept.character not in unseen]
    pairs = _held_out_units([pictures[i] for i in seen], [units[i] for i in seen])
    return [
        HELD_OUT if picture.concept.character in unseen else HELD_OUT_PAIRS if unit in pairs else TRAIN
        for picture, unit in zip(pictures, units, strict=True)
    ]


def _held_out_concepts(pictures: Sequence[StyledPicture], groups: dict[str, str], near: np.ndarray) -> set[str]:
    """Returns the concepts that no style shows in training: those held out in Twemoji alone, but for a few.

    A group goes back to training with another that is there and has a picture near to one of its own, in any style:
    Twemoji draws no two buttons alike, Fluent draws the water closet as it draws the others.
    """
    names = sorted(set(groups.values()))
    index = {name: i for i, name in enumerate(names)}
    of_picture = [index[groups[picture.concept.character]] for picture in pictures]
    alike = [(of_picture[i], of_picture[j]) for i, j in near]
    alike += [(number, index[groups[c]]) for p, number in zip(pictures, of_picture, strict=True) for c in p.characters]
    roots = near_duplicates.connected(len(names), alike)
    chosen = near_duplicates.held_out_groups(groups)
    trained = {root for name, root in zip(names, roots, strict=True) if name not in chosen}
    return {character for character, name in groups.items() if roots[index[name]] not in trained}


def _units(pictures: Sequence[StyledPicture], groups: dict[str, str], near: np.ndarray) -> list[str]:
    """Returns the unit of each picture, named by its first member."""
    first: dict[tuple[str, str], int] = {}
    together = [
        (first.setdefault((groups[c], p.style.name), i), i) for i, p in enumerate(pictures) for c in p.characters
    ]
    roots = near_duplicates.connected(len(pictures), [*together, *near])
    return [f"{pictures[root].concept.name}, {pictures[root].style.name}" for root in roots]


def _held_out_units(pictures: Sequence[StyledPicture], units: Sequence[str]) -> set[str]:
    """Chooses units in the order of their hashes, as long as every concept keeps enough others."""
    sizes = collections.Counter(units)
    concepts, left = collections.defaultdict(set), collections.defaultdict(set)
    for picture, unit in zip(pictures, units, strict=True):
        concepts[unit].add(picture.concept.character)
        left[picture.concept.character].add(unit)
    chosen = set()
    for unit in sorted(sizes, key=unit_hash):
        enough = all(len(left[concept]) > LEAST_UNITS_IN_TRAINING for concept in concepts[unit])
        if unit_hash(unit) < HELD_OUT_PAIRS_SHARE and sizes[unit] <= LARGEST_HELD_OUT_GROUP and enough:
            chosen.add(unit)
            for concept in concepts[unit]:
                left[concept].remove(unit)
    return chosen
