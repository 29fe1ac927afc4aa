"""Held-out emoji become prompts of NAMI-1K's form with pictures to compare with, and models' pictures a sheet."""

import pytest
import tensorflow_datasets as tfds
from PIL import Image

from benchmarks.first_run import PICTURES, PROMPTS, REFERENCE, TRAINING, show, write
from nami_jax.config import ConfigError, DataConfig
from nami_jax.nami1k.prompt_set import read_prompts
from tests.support.styled_cards import SIDE, card

FOOD = "Food & Drink"


class StyledFoods(tfds.core.GeneratorBasedBuilder):
    """Three foods of which two share a caption, and a flag."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = {"image": tfds.features.Image(shape=(SIDE, SIDE, 3)), "captions": tfds.features.Sequence(text)}
        features |= dict.fromkeys(("emoji", "category", "style"), text)
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {
            "train": self._generate_examples([("cherry", FOOD, "red")]),
            "held_out": self._generate_examples([("lime", FOOD, "green"), ("flag", "Flags", "blue")]),
            "held_out_pairs": self._generate_examples([("plum", FOOD, "purple"), ("Lime", FOOD, "gold")]),
        }

    def _generate_examples(self, rows):
        for emoji, category, colour in rows:
            captions = [f"a {emoji}, plain style", f"plain {emoji}"]
            about = {"captions": captions, "emoji": emoji, "category": category, "style": "plain"}
            yield emoji, about | {"image": card(colour, "plain")}


@pytest.fixture
def cfg(tmp_path):
    tfds.builder("styled_foods", data_dir=tmp_path).download_and_prepare(file_format="array_record")
    fields = {"name": "styled_foods", "data_dir": str(tmp_path), "side": SIDE, "train_split": "train"}
    return DataConfig.from_dict(fields)


def test_held_out_foods_become_prompts_with_their_pictures_and_twins_are_left_out(cfg, tmp_path):
    assert write(cfg, (FOOD,), tmp_path / "out") == 2
    prompts = read_prompts(tmp_path / "out" / PROMPTS).prompts
    assert [(prompt.id[:-4], prompt.en.lower()) for prompt in prompts] == [
        ("held_out", "a lime, plain style"),
        ("held_out_pairs", "a plum, plain style"),
    ]
    for prompt, colour in zip(prompts, ("green", "purple"), strict=True):
        with (
            Image.open(tmp_path / "out" / REFERENCE / f"{prompt.id}.png") as kept,
            Image.open(card(colour, "plain")) as drawn,
        ):
            assert kept.tobytes() == drawn.tobytes()
    assert (tmp_path / "out" / TRAINING).read_text() == "a cherry, plain style\nplain cherry\n"
    with pytest.raises(ConfigError, match="hold no emoji"):
        write(cfg, ("Music",), tmp_path / "out")


def test_a_sheet_shows_the_emoji_and_each_models_pictures(cfg, tmp_path):
    out = tmp_path / "out"
    write(cfg, (FOOD,), out)
    (out / REFERENCE).rename(tmp_path / "model")
    write(cfg, (FOOD,), out)
    show(out, [str(tmp_path / "model")])
    with Image.open(out / PICTURES) as sheet:
        assert sheet.width > 2 * 96
        assert sheet.height > 2 * 96
