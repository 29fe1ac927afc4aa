"""A data set of coloured cards in three styles, and features that need no network's weights."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw

from nami_jax.config import Config, DataConfig
from nami_jax.evaluation.features import FeatureNetwork
from tests.support.runs import card_config

COLOURS = ("red", "green", "blue", "black", "gold", "cyan", "purple", "orange")
STYLES = ("plain", "ringed", "striped")
SIDE, CELLS = 16, 8


class StyledCards(tfds.core.GeneratorBasedBuilder):
    """Eight colours in three styles, of which each colour's second or third is held out."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(SIDE, SIDE, 3)),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "emoji": tfds.features.Text(),
            "style": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(False), "held_out": self._generate_examples(True)}

    def _generate_examples(self, held_out: bool) -> Iterator[tuple[str, dict[str, Any]]]:
        for i, colour in enumerate(COLOURS):
            for j, style in enumerate(STYLES):
                if held_out == (j == 1 + i % 2):
                    captions = [f"a {colour} card, {style}", f"{style} & {colour}"]
                    yield (
                        f"{colour} {style}",
                        {"image": card(colour, style), "captions": captions, "emoji": colour, "style": style},
                    )


def card(colour: str, style: str) -> io.BytesIO:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((4, 4, 11, 11), colour)
    if style == "ringed":
        draw.rectangle((0, 0, 15, 15), outline="brown", width=2)
    if style == "striped":
        draw.rectangle((0, 0, 15, 1), "navy")
        draw.rectangle((0, 14, 15, 15), "navy")
    png = io.BytesIO()
    image.save(png, "PNG")
    png.seek(0)
    return png


def styled_data(folder: Path) -> DataConfig:
    return DataConfig(name="styled_cards", side=SIDE, data_dir=str(folder))


def styled_config(folder: Path, **train: Any) -> Config:
    """Returns a run on the cards."""
    data = {"name": "styled_cards", "train_split": "train", "eval_split": "held_out", "image_key": "image",
            "caption_key": "captions", "caption_templates": ("{}",)}  # fmt: skip
    return card_config(folder, data=data, train=train)


def cell_means() -> FeatureNetwork:
    """Describes a picture by the mean colours of its cells."""

    def means(images: np.ndarray) -> np.ndarray:
        side = SIDE // CELLS
        return images.reshape(-1, CELLS, side, CELLS, side, 3).mean((2, 4)).reshape(len(images), -1) / 255

    return FeatureNetwork("cells", "colours", CELLS * CELLS * 3, lambda images: images, means)
