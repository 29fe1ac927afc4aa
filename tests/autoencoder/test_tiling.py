import numpy as np
import pytest

from nami_jax.autoencoder.tiling import blend_weights, tile_starts, tiled

LENGTHS = [*range(1, 60), 100, 128, 129, 257, 1000]


@pytest.mark.parametrize("tile", [8, 9, 16, 31])
def test_tiles_cover_an_axis_from_edge_to_edge_and_overlap_by_three_eighths(tile):
    for length in LENGTHS:
        starts = tile_starts(length, tile)
        assert starts[0] == 0
        assert starts[-1] + tile == length or (starts == [0] and length <= tile)
        assert all(0 < step <= tile - tile * 3 // 8 for step in np.diff(starts))


def test_tiles_of_two_by_hand():
    assert tile_starts(28, 20) == [0, 8]
    weights = blend_weights([0, 8], 28, 20, scale=1)  # they share entries 8..19, of which 11..16 are blended
    blended = (5.5 - np.arange(6)) / 6
    np.testing.assert_allclose(weights[0], np.r_[np.ones(11), blended, np.zeros(11)], rtol=0, atol=1e-7)
    np.testing.assert_allclose(weights[1], 1.0 - weights[0], rtol=0, atol=1e-7)


@pytest.mark.parametrize("tile", [8, 9, 16, 31])
@pytest.mark.parametrize("scale", [1, 8])
def test_weights_sum_to_one_and_stay_within_their_tile(tile, scale):
    for length in LENGTHS:
        starts = tile_starts(length, min(tile, length))
        weights = blend_weights(starts, length, tile, scale)
        np.testing.assert_allclose(weights.sum(axis=0), np.ones(length * scale), rtol=0, atol=2e-7)
        assert weights.min() >= 0
        for start, row in zip(starts, weights, strict=True):
            assert not np.delete(row, np.s_[start * scale : (start + tile) * scale]).any()


def test_weights_do_not_jump():
    for length in (33, 56, 57, 80, 500):
        starts = tile_starts(length, 32)
        ramp = (32 - np.diff(starts).max()) * 8 - 2 * ((32 - np.diff(starts).max()) // 4 * 8)
        # Three tiles may meet in one place; their sum, by which each is divided, then at most doubles the slope.
        assert np.abs(np.diff(blend_weights(starts, length, 32, scale=8), axis=1)).max() <= 2 / ramp


@pytest.mark.parametrize(("height", "width"), [(8, 8), (20, 6), (5, 21), (17, 40)])
def test_a_map_of_single_latents_is_the_same_tiled(height, width):
    def upsample(latents):
        shapes.add(latents.shape)
        return latents.repeat(2, axis=1).repeat(2, axis=2) ** 2

    shapes = set()
    latents = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    result = tiled(upsample, latents, tile=8, scale_in=1, scale_out=2)
    np.testing.assert_allclose(result, upsample(latents), rtol=1e-6, atol=1e-6)
    assert shapes == {(2, min(height, 8), min(width, 8), 3), latents.shape}
    pooled = tiled(lambda pixels: pixels[:, ::2, ::2], result, tile=8, scale_in=2, scale_out=1)
    np.testing.assert_allclose(pooled, latents**2, rtol=1e-6, atol=1e-6)
