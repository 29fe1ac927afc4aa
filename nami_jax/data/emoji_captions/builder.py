"""The tensorflow-datasets builder `emoji_captions`, written as ArrayRecord without tensorflow."""

import dataclasses
import io
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from nami_jax.data.emoji_captions import catalogue, near_duplicates, pair_splits
from nami_jax.data.emoji_captions.catalogue import Emoji
from nami_jax.data.emoji_captions.raster import rasterise
from nami_jax.data.emoji_captions.styled_pictures import StyledPicture, pictures
from nami_jax.data.emoji_captions.styles import OPENMOJI, STYLES, TWEMOJI, Style

_DESCRIPTION = """Emoji drawn by Twemoji on white, each with several English captions (its CLDR name first).

Every picture once, without skin tones. About 5 % of the pictures are held out, by groups of near-duplicates: no
held-out picture has a recoloured, mirrored or otherwise nearly equal one in training. `group` names the group.
"""
_DESCRIPTION_OF_STYLES = """Emoji as several artists draw them, on white, each with several English captions that name
emoji and style.

Every emoji without skin tones that at least two styles have. `held_out` has emoji that training sees in no style,
`held_out_pairs` emoji that training sees in at least two other styles; no held-out picture has a recoloured, mirrored
or otherwise nearly equal one in training. `emoji` is the concept, `style` names the style, `group` the group of
near-duplicate concepts.
"""
_NAMES = """Names: Unicode CLDR, copyright Unicode, Inc., under the Unicode License v3
(https://www.unicode.org/license.txt), by way of the Python package `emoji`.
"""
_CITATION = """@misc{cldr, title = {Unicode Common Locale Data Repository}, author = {{Unicode, Inc.}}, url = {https://cldr.unicode.org}}"""

_Keyed = tuple[str, Emoji, dict[str, Any]]  # an example's key, what it shows, and what features it has besides


@dataclasses.dataclass(eq=False)
class EmojiConfig(tfds.core.BuilderConfig):
    """A size and a choice of categories or styles; the registered ones are in `EmojiCaptions.BUILDER_CONFIGS`."""

    size: int = 32  # height and width, pixels
    categories: tuple[str, ...] | None = None  # e.g. ("Food & Drink",); None: all
    styles: tuple[Style, ...] | None = None  # each emoji in each of them; None: Twemoji's, without naming the style


class EmojiCaptions(tfds.core.GeneratorBasedBuilder):
    """Emoji and their names."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        EmojiConfig(name="food_animals_32", size=32, categories=("Food & Drink", "Animals & Nature")),
        EmojiConfig(name="food_animals_64", size=64, categories=("Food & Drink", "Animals & Nature")),
        EmojiConfig(name="all_32", size=32),
        EmojiConfig(name="all_64", size=64),
        EmojiConfig(name="all_128", size=128),
        EmojiConfig(name="styles_32", size=32, styles=STYLES),
        EmojiConfig(name="styles_64", size=64, styles=STYLES),
        EmojiConfig(name="styles_openmoji_32", size=32, styles=(*STYLES, OPENMOJI)),
        EmojiConfig(name="styles_openmoji_64", size=64, styles=(*STYLES, OPENMOJI)),
    ]

    def __init__(self, *, file_format: str = "array_record", **kwargs: Any):
        super().__init__(file_format=file_format, **kwargs)

    @property
    def _config(self) -> EmojiConfig:
        assert isinstance(self.builder_config, EmojiConfig)
        return self.builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        size, styles = self._config.size, self._config.styles
        features = {
            "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "emoji": tfds.features.Text(),
            "category": tfds.features.Text(),
            "group": tfds.features.Text(),
        }
        if styles is not None:
            features["style"] = tfds.features.Text()
        artists = styles or (TWEMOJI,)
        art = "\n".join(f"Art: {style.art}; rasterised, centred and put on white here." for style in artists)
        licences = "; ".join(style.licence for style in artists)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{_DESCRIPTION if styles is None else _DESCRIPTION_OF_STYLES}\n{art}\n{_NAMES}",
            features=tfds.features.FeaturesDict(features),
            homepage=artists[0].homepage,
            citation="\n".join([*dict.fromkeys(style.citation for style in artists), _CITATION]),
            license=f"Art: {licences}. Names: Unicode License v3 (Unicode CLDR).",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # everything comes with installed packages
        entries, styles = catalogue.catalogue(), self._config.styles
        drawn = None if styles is None else pictures(entries, styles)  # the first to say that a package is missing
        groups = near_duplicates.group_names(entries)  # of all emoji: every choice of categories splits them alike
        found = self._in_twemoji(entries, groups) if drawn is None else self._in_styles(drawn, groups)
        return {split: self._generate_examples(keyed, groups) for split, keyed in found.items()}

    def _in_twemoji(self, entries: list[Emoji], groups: dict[str, str]) -> dict[str, list[_Keyed]]:
        categories, held_out = self._config.categories, near_duplicates.held_out_groups(groups)
        found: dict[str, list[_Keyed]] = {"train": [], "held_out": []}
        for entry in entries:
            if categories is None or entry.category in categories:
                split = "held_out" if groups[entry.character] in held_out else "train"
                found[split].append((entry.character, entry, {}))
        return found

    def _in_styles(self, drawn: list[StyledPicture], groups: dict[str, str]) -> dict[str, list[_Keyed]]:
        found: dict[str, list[_Keyed]] = {split: [] for split in pair_splits.SPLITS}
        for picture, split in zip(drawn, pair_splits.split_pictures(drawn, groups), strict=True):
            more = {"captions": picture.captions, "style": picture.style.name}
            found[split].append((f"{picture.concept.character} {picture.style.name}", picture.drawn, more))
        return found

    def _generate_examples(
        self, keyed: Iterable[_Keyed], groups: dict[str, str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, entry, more in keyed:
            example = {
                "image": io.BytesIO(rasterise(entry.svg, self._config.size)),
                "captions": entry.captions,
                "emoji": entry.character,
                "category": entry.category,
                "group": groups[entry.character],
            }
            yield key, example | more
