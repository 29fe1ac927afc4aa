import dataclasses

import jax
import pytest

from nami_jax.config import AutoencoderConfig, SampleConfig
from nami_jax.monitoring.chips import find_chip
from nami_jax.monitoring.flops import forward_flops, training_flops
from nami_jax.planning.costs import make_rate, phases, picture_flops, shape_flops
from nami_jax.planning.hardware import HOST, Hardware
from tests.support.sizes import CONFIG, make_config

TWO_PHASES = {"stage_batches": ((8, 8, 8), (8, 16, 8)), "phase_starts": (0.0, 0.25), "phase_learning_rates": (1.0,) * 2}


def test_rate_is_all_chips_at_the_assumed_utilisation_and_price():
    hardware = Hardware("v5e:2x2", tuple(jax.devices()[:4]), 1, find_chip("TPU v5e"))
    listed, rate = make_rate(hardware, 0.5, None), make_rate(hardware, 0.5, 2.0)
    assert listed is not None
    assert rate is not None
    assert listed.flops == rate.flops == 4 * 197e12 * 0.5
    assert rate.price == 8.0
    assert rate.dollars(1800) == 4.0


def test_devices_of_unknown_rate_have_no_cost():
    assert make_rate(Hardware(HOST, tuple(jax.devices()), 1, None), 0.4, 1.0) is None


def test_phases_have_their_steps_images_and_flops():
    cfg = make_config(train=TWO_PHASES)
    first, second = phases(cfg)
    assert (first.steps, first.images, second.steps, second.images) == (3, 24, 9, 32)
    assert second.flops == sum(training_flops(cfg, (8, 16, 8)))


def test_a_picture_s_steps_are_guided_by_the_windows_of_its_flow():
    """Stage 2 begins its steps at 0.92, 0.83, 0.73 and 0.64 with these windows, and at 0.74, 0.65, ... without."""
    sample = SampleConfig((4, 4, 4), guidance_interval=(0.6, 1.0))
    cfg = dataclasses.replace(make_config(flow={"sigma_ends": (0.9, 0.5, 0.0)}), sample=sample)
    tokens, text = cfg.model.image_tokens(cfg.data.side, cfg.data.side), cfg.text.max_length
    passes = [
        cost // forward_flops(cfg.model, stage, length, text)
        for stage, (cost, length) in enumerate(zip(picture_flops(cfg, 1), tokens, strict=True), start=1)
    ]
    assert passes == [8, 8, 4]


def test_flops_of_a_phase_are_the_mean_of_its_buckets():
    data = dataclasses.replace(CONFIG.data, side=64, prepared="x", buckets=((64, 64), (32, 128), (32, 64)))
    cfg = dataclasses.replace(CONFIG, data=data, autoencoder=AutoencoderConfig("vae", downscale=4))
    (phase,) = phases(cfg)
    square, half = (sum(training_flops(cfg, (8, 8, 8), size)) for size in ((64, 64), (32, 64)))
    assert phase.flops == pytest.approx((2 * square + half) / 3)


def test_flops_of_shapes_are_those_of_their_images():
    assert shape_flops(CONFIG, ((8, 4, 4, 3), (8, 8, 8, 3), (8, 16, 16, 3))) == training_flops(CONFIG, (8, 8, 8))
