import jax
import numpy as np
import pytest

from nami_jax.config import ConfigError
from nami_jax.models.clip import Clip, ClipVisionConfig
from nami_jax.weights.clip_keys import load_clip, read_clip_config
from tests.support.golden_networks import golden_features

GOLDEN = golden_features("clip")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(read_clip_config(GOLDEN.config), GOLDEN.weights)


def relative_error(found: jax.Array, name: str) -> float:
    exact = GOLDEN.vectors[name]
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def test_images_agree_with_transformers(clip):
    # Two layers in float32, in another order of summation.
    assert relative_error(jax.jit(clip.images)(GOLDEN.vectors["images"]), "image_features") <= 1e-5


def test_texts_agree_with_transformers(clip):
    found = jax.jit(clip.texts)(GOLDEN.vectors["ids"], GOLDEN.vectors["mask"])
    assert relative_error(found, "text_features") <= 1e-5


def test_padding_does_not_change_a_text(clip):
    ids, mask = GOLDEN.vectors["ids"].copy(), GOLDEN.vectors["mask"]
    found = clip.texts(np.where(mask, ids, 17), mask)
    np.testing.assert_array_equal(found, clip.texts(ids, mask))


def test_sizes_that_do_not_divide_are_named():
    with pytest.raises(ConfigError, match=r"hidden_size = 30: must be a multiple of num_attention_heads = 4\. "):
        ClipVisionConfig(hidden_size=30, num_attention_heads=4)
    with pytest.raises(ConfigError, match=r"image_size = 16: must be at least patch_size = 32\. "):
        ClipVisionConfig(image_size=16)
