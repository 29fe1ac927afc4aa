"""The tensorflow-datasets builder `emoji_captions`, written as ArrayRecord without tensorflow."""

import dataclasses
import functools
import io
from collections.abc import Iterator
from typing import Any, ClassVar

import resvg_py
import tensorflow_datasets as tfds
from PIL import Image

from nami_jax.data.emoji_captions import catalogue, near_duplicates

_DESCRIPTION = """Emoji drawn by Twemoji on white, each with several English captions (its CLDR name first).

Every picture once, without skin tones. About 5 % of the pictures are held out, by groups of near-duplicates: no
held-out picture has a recoloured, mirrored or otherwise nearly equal one in training. `group` names the group.

Art: Twemoji, copyright Twitter, Inc. and other contributors, maintained by jdecked and contributors, licensed under
CC-BY 4.0 (https://creativecommons.org/licenses/by/4.0/); rasterised, centred and put on white here.
Names: Unicode CLDR, copyright Unicode, Inc., under the Unicode License v3 (https://www.unicode.org/license.txt), by way
of the Python package `emoji`.
"""
_LICENSE = "Art: CC-BY 4.0 (Twemoji, Twitter, Inc. and other contributors). Names: Unicode License v3 (Unicode CLDR)."
_CITATION = """@misc{twemoji,
  title = {Twemoji}, author = {{Twitter, Inc. and other contributors}}, url = {https://github.com/jdecked/twemoji},
  note = {Graphics licensed under CC-BY 4.0}
}
@misc{cldr, title = {Unicode Common Locale Data Repository}, author = {{Unicode, Inc.}}, url = {https://cldr.unicode.org}}"""


@dataclasses.dataclass(eq=False)
class EmojiConfig(tfds.core.BuilderConfig):
    """A size and a choice of categories; the registered ones are in `EmojiCaptions.BUILDER_CONFIGS`."""

    size: int = 32  # height and width, pixels
    categories: tuple[str, ...] | None = None  # e.g. ("Food & Drink",); None: all


class EmojiCaptions(tfds.core.GeneratorBasedBuilder):
    """Emoji and their names."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        EmojiConfig(name="food_animals_32", size=32, categories=("Food & Drink", "Animals & Nature")),
        EmojiConfig(name="food_animals_64", size=64, categories=("Food & Drink", "Animals & Nature")),
        EmojiConfig(name="all_32", size=32),
        EmojiConfig(name="all_64", size=64),
        EmojiConfig(name="all_128", size=128),
    ]

    def __init__(self, *, file_format: str = "array_record", **kwargs: Any):
        super().__init__(file_format=file_format, **kwargs)

    @property
    def _config(self) -> EmojiConfig:
        assert isinstance(self.builder_config, EmojiConfig)
        return self.builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._config.size
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
                    "captions": tfds.features.Sequence(tfds.features.Text()),
                    "emoji": tfds.features.Text(),
                    "category": tfds.features.Text(),
                    "group": tfds.features.Text(),
                }
            ),
            homepage="https://github.com/jdecked/twemoji",
            citation=_CITATION,
            license=_LICENSE,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # everything comes with installed packages
        entries = catalogue.catalogue()
        groups = near_duplicates.group_names(entries)  # of all emoji: every choice of categories splits them alike
        held_out = near_duplicates.held_out_groups(groups)
        generate = functools.partial(self._generate_examples, entries=entries, groups=groups)
        return {"train": generate(chosen=set(groups.values()) - held_out), "held_out": generate(chosen=held_out)}

    def _generate_examples(
        self, entries: list[catalogue.Emoji], groups: dict[str, str], chosen: set[str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        categories, size = self._config.categories, self._config.size
        for entry in entries:
            if groups[entry.character] in chosen and (categories is None or entry.category in categories):
                example = {
                    "image": io.BytesIO(rasterise(entry.svg_path.read_text(), size)),
                    "captions": entry.captions,
                    "emoji": entry.character,
                    "category": entry.category,
                    "group": groups[entry.character],
                }
                yield entry.character, example


def rasterise(svg: str, size: int) -> bytes:
    """Draws an SVG as large as fits, centred on white: a PNG of size x size RGB pixels."""
    drawn = _draw(svg, width=size, height=None)
    if drawn.height > size:
        drawn = _draw(svg, width=None, height=size)
    canvas = Image.new("RGBA", (size, size), "white")
    canvas.alpha_composite(drawn, ((size - drawn.width) // 2, (size - drawn.height) // 2))
    png = io.BytesIO()
    canvas.convert("RGB").save(png, "PNG")
    return png.getvalue()


def _draw(svg: str, width: int | None, height: int | None) -> Image.Image:
    png = resvg_py.svg_to_bytes(svg_string=svg, width=width, height=height, skip_system_fonts=True)
    return Image.open(io.BytesIO(png)).convert("RGBA")
