import itertools

import jax
import numpy as np
import pytest

from nami_jax.flow.interpolant import stage_ends
from nami_jax.flow.resize import pool
from nami_jax.flow.stages import make_stages
from nami_jax.flow.transition import Bridged, Renoise
from nami_jax.models.bridge import Bridge
from nami_jax.models.layout import ONE_DEVICE
from nami_jax.sampling.source_paths import Source, SourcePaths, pooled_mask
from nami_jax.sampling.stage_programs import image_noise

STAGES = make_stages(3)
LATENTS = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)


def noise(stage):
    side = 16 // stage.downscale
    return image_noise(0, [0, 1], stage, (side, side, 3))


def paths(transition, mask=None):
    return SourcePaths(Source(LATENTS, 1.0, mask), transition, STAGES, noise, ONE_DEVICE)


def test_a_renoised_path_jumps_from_each_stage_s_end_to_the_next_one_s_start():
    transition, of = Renoise(), paths(Renoise())
    for before, stage in itertools.pairwise(STAGES):
        _, end = of.at(before, 0.0)
        _, start = of.at(stage, 1.0)
        np.testing.assert_allclose(transition(end, noise(stage), before), start, rtol=1e-5, atol=1e-5)


def test_a_path_begins_and_ends_as_in_training():
    _, start = paths(Renoise()).at(STAGES[1], 1.0)
    _, end = paths(Renoise()).at(STAGES[2], 0.0)
    np.testing.assert_array_equal(end, LATENTS)
    _, first = paths(Renoise()).at(STAGES[0], 1.0)
    np.testing.assert_array_equal(first, noise(STAGES[0]))
    # Given the noise that it is made with, the start is `stage_ends`'.
    clean = pool(LATENTS)
    made = (np.asarray(start) - 0.2 * np.asarray(jax.image.resize(pool(clean), clean.shape, "nearest"))) / 0.8
    np.testing.assert_allclose(stage_ends(clean, jax.numpy.asarray(made), STAGES[1])[0], start, rtol=1e-5, atol=1e-5)
    assert np.std(made) == pytest.approx(1, abs=0.1)


def test_behind_a_bridge_a_path_begins_where_the_bridge_leads():
    bridge = Bridge([(8, 8, 3), (16, 16, 3)])
    bridge.scales[...] = jax.numpy.array([0.6, 0.75])
    _, end = paths(Bridged(bridge)).at(STAGES[0], 0.0)
    _, start = paths(Bridged(bridge)).at(STAGES[1], 1.0)
    np.testing.assert_allclose(Bridged(bridge)(end, None, STAGES[0]), start, rtol=1e-5, atol=1e-5)


def test_a_coarse_latent_is_drawn_if_any_that_it_holds_is():
    mask = np.zeros((1, 8, 8, 1), bool)
    mask[0, 5, 2] = True
    coarse = pooled_mask(mask, STAGES[0])
    assert coarse.shape == (1, 2, 2, 1)
    assert coarse[0, :, :, 0].tolist() == [[False, False], [True, False]]
    held, _ = paths(Renoise(), np.repeat(np.repeat(np.repeat(mask, 2, 1), 2, 2), 2, 0)).at(STAGES[0], 1.0)
    assert held is not None
    x = jax.numpy.full_like(held.x_end, 7)
    kept = held.after(x, jax.numpy.float32(0.25))
    np.testing.assert_allclose(
        kept, np.where(held.drawn, 7, 0.25 * held.x_start + 0.75 * held.x_end), rtol=1e-6, atol=1e-6
    )
