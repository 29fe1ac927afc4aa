import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.config import ConfigError
from nami_jax.models.dinov2 import Dinov2, Dinov2Config, bicubic_weights, resize_positions
from nami_jax.weights.dinov2_keys import load_dinov2, read_dinov2_config
from tests.support.golden_networks import golden_features

GOLDEN = golden_features("dinov2")


@pytest.fixture(scope="module")
def dinov2() -> Dinov2:
    return load_dinov2(read_dinov2_config(GOLDEN.config), GOLDEN.weights)


def test_features_agree_with_transformers(dinov2):
    found = jax.jit(lambda images: dinov2(images, offset=0))(GOLDEN.vectors["images"])
    # Two layers in float32, in another order of summation.
    assert np.abs(found - GOLDEN.vectors["features"]).max() <= 1e-5 * np.abs(GOLDEN.vectors["features"]).max()


def test_the_originals_offset_changes_the_features(dinov2):
    found = dinov2(jnp.asarray(GOLDEN.vectors["images"]))
    assert np.abs(found - GOLDEN.vectors["features"]).max() > 1e-3 * np.abs(GOLDEN.vectors["features"]).max()


def test_weights_of_a_cubic_half_way_are_those_worked_by_hand():
    # a = -0.75 at the distances 1.5, 0.5, 0.5, 1.5: a (3.375 - 11.25 + 12 - 4), (a + 2) / 8 - (a + 3) / 4 + 1.
    weights = bicubic_weights(8, 4, 2.0)
    np.testing.assert_allclose(weights[1], [0, -0.09375, 0.59375, 0.59375, -0.09375, 0, 0, 0], atol=1e-7)
    np.testing.assert_allclose(weights[0], [0.5, 0.59375, -0.09375, 0, 0, 0, 0, 0], atol=1e-7)
    np.testing.assert_allclose(bicubic_weights(37, 16, 37 / 16.1).sum(1), 1, atol=1e-6)


def test_positions_of_the_trained_side_stay_as_they_are():
    table = jnp.arange(20.0).reshape(5, 4)
    assert resize_positions(table, 2, 0.1) is table


@pytest.mark.parametrize(("size", "factor"), [("hidden_size", "num_attention_heads"), ("image_size", "patch_size")])
def test_sizes_that_do_not_divide_are_named(size, factor):
    with pytest.raises(ConfigError, match=rf"{size} = 30: must be a multiple of {factor} = 4\. "):
        Dinov2Config(**{size: 30, factor: 4})
