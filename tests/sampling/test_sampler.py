import dataclasses

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.config import ConfigError, SampleConfig, choices
from nami_jax.flow.stages import make_stages
from nami_jax.flow.transition import Bridged, Renoise
from nami_jax.models.bridge import Bridge
from nami_jax.models.layers import TIME_CHANNELS
from nami_jax.parallel.kept_programs import compilations
from nami_jax.sampling.sampler import Request, make_sampler
from nami_jax.sampling.stage_programs import Networks, image_noise, run_stage
from nami_jax.sampling.velocity import Guidance, stage_velocity
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


def both_halves():
    """The text states of a guided batch, whose unconditional half is another."""
    embeds, pooled = (np.concatenate([states, states + 1]) for states in text(2))
    return embeds, pooled


def bridged(model, seed: int = 0, share: float = 0.0):
    """A network with a bridge of the released form, for latents of 16 x 16, not quite the identity."""
    bridge = Bridge([(8, 8, 3), (16, 16, 3)])
    bridge.scales[...] = jnp.array([0.6, 0.75]) + seed
    return Networks(model, Bridged(bridge, share))


def test_sampling_is_the_stages_one_after_another():
    model, sample = awake(), SampleConfig((1, 1, 1), 2.0)
    request, networks = Request(16, 16, seed=0, numbers=[0, 1]), Networks(model, Renoise())
    latents = make_sampler(MODEL)(networks, text(2), text(1), sample, request)
    states = tuple(np.concatenate([t, np.broadcast_to(n, t.shape)]) for t, n in zip(text(2), text(1), strict=True))
    x = image_noise(0, [0, 1], STAGES[0], (4, 4, 3))
    for before, stage in zip((None, *STAGES), STAGES, strict=False):
        if before is not None:
            noise = image_noise(0, [0, 1], stage, (x.shape[1] * 2, x.shape[2] * 2, 3))
            x = networks.transition(x, noise, before)
        velocity = velocity_of(
            model, jnp.concatenate([x, x]), jnp.full(4, stage.time_start), *map(jnp.asarray, states), stage=stage.number
        )
        x = x - (2 * velocity[:2] - velocity[2:])  # one Euler step over the whole stage, guidance 2
    np.testing.assert_allclose(latents, x, rtol=2e-4, atol=2e-4)


def test_stages_are_yielded_coarsest_first_and_the_last_is_the_result():
    networks, sample, request = Networks(awake(), Renoise()), SampleConfig((1, 1, 1)), Request(16, 24, 0, [0, 1])
    sampler = make_sampler(MODEL)
    embeds, pooled = (np.concatenate([t, t]) for t in text(2))
    states = embeds, pooled
    latents = [end.x for end in sampler.by_stage(networks, states, sample, request)]
    assert [x.shape for x in latents] == [(2, *shape) for shape in sampler.shapes(16, 24)]
    np.testing.assert_array_equal(latents[-1], sampler(networks, text(2), text(2), sample, request))


@pytest.mark.parametrize("kind", ["renoise", "bridge"])
def test_further_seeds_prompts_scales_weights_and_samplers_compile_nothing(kind):
    def sample(seed, scale, model):
        networks = Networks(model, Renoise()) if kind == "renoise" else bridged(model, seed)
        request = Request(16, 16, seed, [0, 1])
        make_sampler(MODEL)(networks, text(2), text(1), SampleConfig((2, 3, 2), scale), request)

    with compilations() as compiled:
        sample(0, 2.0, awake(seed=0))
    assert len(compiled) >= 3  # one function per stage
    model = awake(seed=1)
    with compilations() as compiled:
        sample(1, 3.0, model)
    assert not compiled


@pytest.mark.parametrize("solver", choices(SampleConfig, "solver"))
def test_scale_one_and_an_empty_interval_pass_half_the_batch_and_change_nothing(solver):
    networks, request, steps = Networks(awake(), Renoise()), Request(16, 16, 0, [0, 1]), (2, 1, 2)

    def sample(**settings):
        return make_sampler(MODEL)(networks, text(2), text(1), SampleConfig(steps, solver=solver, **settings), request)

    barely = sample(guidance_scale=1.0 + 1e-6)  # both halves
    for way in ({"guidance_scale": 1.0}, {"guidance_scale": 9.0, "guidance_interval": (0.0, 0.0)}):
        np.testing.assert_allclose(sample(**way), barely, rtol=1e-3, atol=1e-4)
    assert not np.allclose(sample(guidance_scale=2.0), barely, atol=1e-2)


def test_half_the_batch_is_half_the_work():
    networks, sampler = Networks(awake(), Renoise()), make_sampler(MODEL)
    x = image_noise(0, [0, 1], STAGES[0], (4, 4, 3))

    def flops(scale):
        (program, grid), *_ = sampler.programs(SampleConfig((1, 1, 1), scale))
        arguments = networks, x, None, Guidance(both_halves(), np.float32(scale)), grid
        return run_stage.jitted(program, *arguments).lower(*arguments).cost_analysis()["flops"]

    assert flops(1.0) / flops(3.0) == pytest.approx(0.5, abs=0.05)


def test_guidance_in_an_interval_is_guided_steps_and_then_others():
    model, steps = awake(), (1, 1, 4)
    networks, sampler, request = Networks(model, Renoise()), make_sampler(MODEL), Request(16, 16, 0, [0, 1])

    def stages(**settings):
        ends = sampler.by_stage(networks, both_halves(), SampleConfig(steps, **settings), request)
        return [end.x for end in ends]

    interval = {"guidance_interval": (0.15, 1.0)}
    mixed, guided = stages(**interval), stages()
    np.testing.assert_array_equal(mixed[1], guided[1])  # where every step is guided, the program is the same
    program, grid = sampler.programs(SampleConfig(steps, **interval))[2]  # pyright: ignore[reportArgumentType]
    assert program.guided == (True, True, True, False)
    guidance = Guidance(both_halves(), np.float32(3))
    velocity = {g: jax.jit(stage_velocity(model, guidance, program, g).__call__) for g in (False, True)}
    x = networks.transition(guided[1], image_noise(0, [0, 1], STAGES[2], (16, 16, 3)), STAGES[1])
    for i in range(4):
        x = x + (grid.taus[i + 1] - grid.taus[i]) * velocity[program.guided[i]](x, grid.times[i])
    np.testing.assert_allclose(mixed[2], x, rtol=2e-4, atol=2e-4)


def test_a_scale_for_each_stage_is_that_stage_s():
    networks, sampler, request = Networks(awake(), Renoise()), make_sampler(MODEL), Request(16, 16, 0, [0, 1])

    def stages(scale):
        ends = sampler.by_stage(networks, both_halves(), SampleConfig((1, 1, 1), scale), request)
        return [end.x for end in ends]

    some, three = stages((3.0, 3.0, 2.0)), stages(3.0)
    np.testing.assert_array_equal(some[1], three[1])
    assert not np.allclose(some[2], three[2], atol=1e-2)


def test_options_of_guidance_reach_the_velocity():
    networks, request = Networks(awake(), Renoise()), Request(16, 16, 0, [0, 1])

    def sample(**settings):
        sample = SampleConfig((2, 1, 1), 3.0, **settings)
        return make_sampler(MODEL)(networks, text(2), text(1), sample, request)

    plain = sample()
    options = ({"cfg_zero_star": True}, {"guidance_rescale": 0.7}, {"zero_init_steps": 1}, {"shift": 2.0})
    for settings in options:
        assert not np.allclose(sample(**settings), plain, atol=1e-3), settings


def test_one_stage_model_samples_without_a_jump():
    cfg = dataclasses.replace(MODEL, stage_single_blocks=(2,))
    networks, request = Networks(awake(cfg), Renoise()), Request(4, 6, 0, [0])
    latents = make_sampler(cfg)(networks, text(1), text(1), SampleConfig((3,)), request)
    assert latents.shape == (1, 4, 6, 3)
    assert jax.numpy.isfinite(latents).all()


def test_with_the_released_bridge_nothing_but_the_first_latents_is_drawn():
    model, sampler, sample = awake(), make_sampler(MODEL), SampleConfig((1, 1, 1))
    initial = image_noise(0, [0], STAGES[0], (4, 4, 3))
    drawn = [
        sampler(networks, text(1), text(1), sample, Request(16, 16, seed, [0], initial))
        for networks in (bridged(model), Networks(model, Renoise()), bridged(model, share=0.5))
        for seed in (0, 1)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.allclose(drawn[2], drawn[3])
    assert not np.allclose(drawn[4], drawn[5])


def test_a_bridge_with_noise_starts_the_next_stage_with_that_stages_noise():
    networks, sampler, request = bridged(awake(), share=0.5), make_sampler(MODEL), Request(16, 16, 0, [0, 1])
    states, sample = both_halves(), SampleConfig((1, 1, 1), guidance_scale=1.0)
    first, second, _ = (end.x for end in sampler.by_stage(networks, states, sample, request))
    noise = image_noise(0, [0, 1], STAGES[1], (8, 8, 3))
    start = networks.transition(first, noise, STAGES[0])
    half = (jnp.asarray(part[:2]) for part in states)
    velocity = velocity_of(networks.model, start, jnp.full(2, STAGES[1].time_start), *half, stage=2)
    np.testing.assert_allclose(second, start - velocity, rtol=2e-4, atol=2e-4)


def test_a_bridge_with_noise_is_compiled_beforehand():
    networks, sampler, request = bridged(awake(), share=0.5), make_sampler(MODEL), Request(16, 16, 0, [0, 1])
    sample, states = SampleConfig((2, 2, 2)), text(2)
    sampler.compile(networks, states, sample, request)  # pyright: ignore[reportArgumentType]
    with compilations() as compiled:
        sampler(networks, states, text(1), sample, request)
    assert not compiled


def test_the_released_bridge_refuses_other_sizes_before_anything_is_compiled():
    networks, request = bridged(awake()), Request(16, 24, 0, [0])
    with compilations() as compiled, pytest.raises(ConfigError, match=r"latents of 16x16 only, not 16x24"):
        make_sampler(MODEL)(networks, text(1), text(1), SampleConfig((1, 1, 1)), request)
    assert not compiled


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_what_depends_on_time_or_text_alone_is_computed_outside_the_steps(scale):
    model = awake()
    (program, grid), *_ = make_sampler(MODEL).programs(SampleConfig((4, 1, 1), scale))
    x, guidance = image_noise(0, [0, 1], STAGES[0], (4, 4, 3)), Guidance(both_halves(), np.float32(scale))
    # Kernels whose shapes no other layer has: the embeddings of time and text, a double block's modulation.
    once = {(TIME_CHANNELS, MODEL.width), (MODEL.text_dim, MODEL.width), (MODEL.width, 6 * MODEL.width)}

    def kernels(jaxpr):
        """The shapes of all that is multiplied, in this program and in those inside it."""
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                yield from (v.aval.shape for v in equation.invars)
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from kernels(inner)

    arguments = Networks(model, Renoise()), x, None, guidance, grid
    whole = run_stage.jitted(program, *arguments).trace(*arguments).jaxpr.jaxpr
    (steps,) = (equation.params["jaxpr"].jaxpr for equation in whole.eqns if equation.primitive.name == "scan")
    assert not once & set(kernels(steps))
    assert once <= set(kernels(whole))


@pytest.mark.parametrize("scan_blocks", [False, True])
def test_no_step_takes_a_slice_of_the_stacks(scan_blocks):
    model = awake(dataclasses.replace(MODEL, scan_blocks=scan_blocks))
    (program, grid), *_ = make_sampler(model.cfg).programs(SampleConfig((4, 1, 1)))
    x, guidance = image_noise(0, [0, 1], STAGES[0], (4, 4, 3)), Guidance(both_halves(), np.float32(3))
    arguments = Networks(model, Renoise()), x, None, guidance, grid
    whole = run_stage.jitted(program, *arguments).trace(*arguments).jaxpr.jaxpr
    scans = [equation.params for equation in whole.eqns if equation.primitive.name == "scan"]
    (steps,) = (scan["jaxpr"].jaxpr for scan in scans if scan["length"] == 4)  # others are over blocks
    given = {v.aval.shape for v in steps.invars}
    hidden = MODEL.mlp_ratio * MODEL.width
    assert (MODEL.width, hidden) in given
    assert not {(count, MODEL.width, hidden) for count in (MODEL.double_blocks, MODEL.stage_single_blocks[-1])} & given
