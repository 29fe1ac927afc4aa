"""A picture of each prompt: which files, what continues, and what is refused."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nami_jax import NamiPipeline
from nami_jax.config import ConfigError
from nami_jax.sampling.parts import Parts
from nami_jax.sampling.prompt_pictures import MANIFEST, PromptPictures, draw_prompts
from nami_jax.text.encoders import TextStates
from tests.support.pipelines import small_pipeline
from tests.support.sizes import CONFIG, MODEL

TEXTS = {"n0001": "a red cup", "n0002": "a red cup", "n0003": "rain"}


class TextsAlone:
    """States that depend on the text alone."""

    cfg = CONFIG.pipeline.text
    embed_dim, pooled_dim, max_length = MODEL.text_dim, MODEL.pooled_dim, 5

    def __call__(self, prompts: Sequence[str]) -> TextStates:
        rngs = [np.random.default_rng(list(prompt.encode())) for prompt in prompts]
        return TextStates(
            np.stack([rng.standard_normal((self.max_length, self.embed_dim), np.float32) for rng in rngs]),
            np.stack([rng.standard_normal(self.pooled_dim, np.float32) for rng in rngs]),
        )


@pytest.fixture(scope="module")
def pipe():
    small = small_pipeline()
    return NamiPipeline(Parts(small.model, small.cfg, None, "a small network"), TextsAlone)


def wanted(out, **changes):
    own = PromptPictures("runs/a", None, None, TEXTS, {"prompt_set": "1234"}, str(out), 0, 1, 2)
    return dataclasses.replace(own, **changes)


def pixels(folder):
    return {str(path.relative_to(folder)): np.asarray(Image.open(path)) for path in Path(folder).rglob("*.png")}


def test_each_prompt_has_a_picture_of_its_own_noise(pipe, tmp_path):
    assert draw_prompts(pipe, wanted(tmp_path)) == 3
    drawn = pixels(tmp_path)
    assert drawn.keys() == {f"{name}.png" for name in TEXTS}
    assert (drawn["n0001.png"] != drawn["n0002.png"]).any()  # though their texts are the same
    with Image.open(tmp_path / "n0003.png") as picture:
        assert picture.info["prompt"] == "rain"


def test_what_was_lost_is_drawn_again_as_it_was(pipe, tmp_path):
    draw_prompts(pipe, wanted(tmp_path))
    before = pixels(tmp_path)
    (tmp_path / "n0002.png").unlink()
    assert draw_prompts(pipe, wanted(tmp_path)) == 1
    after = pixels(tmp_path)
    # Another number of pictures at once rounds otherwise.
    assert max(np.abs(after[name].astype(int) - before[name]).max() for name in before) <= 1
    assert draw_prompts(pipe, wanted(tmp_path)) == 0


def test_several_pictures_of_a_prompt_are_whole_folders(pipe, tmp_path):
    draw_prompts(pipe, wanted(tmp_path, num_images=2))
    drawn = pixels(tmp_path)
    assert drawn.keys() == {f"{folder}/{name}.png" for folder in "12" for name in TEXTS}
    assert (drawn["1/n0001.png"] != drawn["2/n0001.png"]).any()


def test_pictures_that_were_drawn_otherwise_are_not_mixed(pipe, tmp_path):
    draw_prompts(pipe, wanted(tmp_path))
    kept = json.loads((tmp_path / MANIFEST).read_text())
    assert (kept["checkpoint"], kept["prompt_set"], kept["seed"]) == ("a small network", "1234", 0)
    with pytest.raises(ConfigError, match=r"drawn with another sampler, seed. Set another folder"):
        draw_prompts(pipe, wanted(tmp_path, seed=1, preset="fast"))
    other_texts = dataclasses.replace(pipe.cfg, text=dataclasses.replace(pipe.cfg.text, mask_padding=False))
    other = NamiPipeline(Parts(pipe.model, other_texts, None, pipe.source), TextsAlone)
    with pytest.raises(ConfigError, match=r"drawn with another text_encoder. Set another folder"):
        draw_prompts(other, wanted(tmp_path))
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(ConfigError, match=r"no manifest.json tells how"):
        draw_prompts(pipe, wanted(tmp_path))
