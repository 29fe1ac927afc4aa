import jax
import jax.numpy as jnp
import numpy as np

from nami_jax.models.rope import _swap, _swap_by_product, rotate, rotations

AXES = (4, 6, 6)


def test_text_tokens_are_not_rotated():
    cos, sin = rotations(3, 2, 2, AXES, 10000.0)
    assert cos.shape == (7, 16)
    np.testing.assert_array_equal(cos[:3], 1)
    np.testing.assert_array_equal(sin[:3], 0)


def test_an_image_token_is_rotated_by_its_row_and_column():
    cos, sin = rotations(1, 3, 5, AXES, 100.0)
    angles = np.arctan2(sin, cos)[1 + 2 * 5 + 3, ::2]  # row 2, column 3, of each pair's first channel
    frequencies = 100.0 ** -(np.arange(0, 6, 2) / 6)
    expected = np.concatenate([np.zeros(2), 2 * frequencies, 3 * frequencies])
    np.testing.assert_allclose(angles, expected, rtol=1e-6)


def test_rotation_worked_by_hand():
    quarter = (np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32))  # cos 90°, sin 90°
    np.testing.assert_array_equal(rotate(jnp.array([2.0, 3.0]).reshape(1, 1, 1, 2), quarter).ravel(), [-3, 2])


def test_attention_scores_depend_on_relative_positions_only():
    q, k = (jax.random.normal(key, (1, 1, 1, 16)) for key in jax.random.split(jax.random.key(0)))
    cos, sin = rotations(0, 8, 8, AXES, 10000.0)

    def score(i, j):
        return jnp.vdot(rotate(q, (cos[i : i + 1], sin[i : i + 1])), rotate(k, (cos[j : j + 1], sin[j : j + 1])))

    at = lambda row, column: 8 * row + column  # noqa: E731
    np.testing.assert_allclose(score(at(1, 2), at(3, 5)), score(at(4, 0), at(6, 3)), rtol=1e-5)
    assert not np.allclose(score(at(1, 2), at(3, 5)), score(at(1, 2), at(5, 3)))


def test_the_two_ways_to_swap_channels_are_bit_equal():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 16))
    for dtype in (jnp.float32, jnp.bfloat16):
        np.testing.assert_array_equal(_swap(x.astype(dtype)), _swap_by_product(x.astype(dtype)))
