import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.config import ConfigError, SampleConfig
from nami_jax.flow.stages import make_stages
from nami_jax.models.bridge import Bridge
from nami_jax.sampling.sampler import image_noise, jump, run_stage, sample_latents
from tests.models.test_nami import awake, velocity_of
from tests.support.sizes import MODEL

STAGES = make_stages(3)


def test_noise_is_keyed_by_seed_number_and_stage():
    noise = image_noise(0, [0, 1, 2], STAGES[0], (4, 4, 3))
    np.testing.assert_array_equal(image_noise(0, [2], STAGES[0], (4, 4, 3))[0], noise[2])
    for other in (
        image_noise(1, [0, 1, 2], STAGES[0], (4, 4, 3)),
        image_noise(0, [0, 1, 2], STAGES[1], (4, 4, 3)),
        jnp.roll(noise, 1, axis=0),
    ):
        assert not np.any(np.isclose(noise, other))


def test_noise_is_standard_normal():
    noise = image_noise(0, range(64), STAGES[2], (16, 16, 3))
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02


def text(batch: int, tokens: int = 5):
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, tokens, MODEL.text_dim)).astype(np.float32), np.ones(
        (batch, MODEL.pooled_dim), np.float32
    )


def test_sampling_is_the_stages_one_after_another():
    model, sample = awake(), SampleConfig((1, 1, 1), 2.0)
    latents = sample_latents(model, text(2), text(1), sample, height=16, width=16, seed=0, numbers=[0, 1])
    states = tuple(np.concatenate([t, np.broadcast_to(n, t.shape)]) for t, n in zip(text(2), text(1), strict=True))
    x = image_noise(0, [0, 1], STAGES[0], (4, 4, 3))
    for before, stage in zip((None, *STAGES), STAGES, strict=False):
        if before is not None:
            x = jump(x, image_noise(0, [0, 1], stage, (x.shape[1] * 2, x.shape[2] * 2, 3)), before, None)
        velocity = velocity_of(
            model, jnp.concatenate([x, x]), jnp.full(4, stage.time_start), *map(jnp.asarray, states), stage=stage.number
        )
        x = x - (2 * velocity[:2] - velocity[2:])  # one Euler step over the whole stage, guidance 2
    np.testing.assert_allclose(latents, x, rtol=2e-4, atol=2e-4)


def compiled_functions() -> int:
    function: Any = run_stage
    return function._cache_size()


def test_further_seeds_prompts_and_scales_compile_nothing():
    def sample(seed, scale):
        request = {"height": 16, "width": 16, "seed": seed, "numbers": [0, 1]}
        sample_latents(model, text(2), text(1), SampleConfig((2, 2, 2), scale), **request)
        return compiled_functions()

    model, at_first = awake(), compiled_functions()
    after_one = sample(0, 1.0)
    assert after_one == at_first + 3  # one function per stage
    assert sample(1, 3.0) == after_one


def test_one_stage_model_samples_without_a_jump():
    cfg = dataclasses.replace(MODEL, stage_single_blocks=(2,))
    latents = sample_latents(awake(cfg), text(1), text(1), SampleConfig((3,)), height=4, width=6, seed=0, numbers=[0])
    assert latents.shape == (1, 4, 6, 3)
    assert jax.numpy.isfinite(latents).all()


def test_with_a_bridge_nothing_but_the_first_latents_is_drawn():
    model, request = awake(), {"height": 16, "width": 16, "numbers": [0]}
    initial = image_noise(0, [0], STAGES[0], (4, 4, 3))
    bridge = Bridge([(8, 8, 3), (16, 16, 3)])
    drawn = [
        sample_latents(model, text(1), text(1), SampleConfig((1, 1, 1)), seed=s, bridge=b, initial=initial, **request)
        for s, b in ((0, bridge), (1, bridge), (0, None), (1, None))
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.allclose(drawn[2], drawn[3])


def test_the_released_bridge_refuses_other_sizes_before_anything_is_compiled():
    before = compiled_functions()
    with pytest.raises(ConfigError, match=r"latents of 16x16 only, not 16x24"):
        sample_latents(awake(), text(1), text(1), SampleConfig((1, 1, 1)), height=16, width=24, seed=0, numbers=[0],
                       bridge=Bridge([(8, 8, 3), (16, 16, 3)]))  # fmt: skip
    assert compiled_functions() == before
