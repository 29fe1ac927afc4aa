"""Memory of a run on eight devices of this machine, by hand and by what the compiler says of it."""

import dataclasses
import math
from typing import Any

import pytest
from flax.traverse_util import flatten_dict

from nami_jax.config import MeshConfig
from nami_jax.models.nami import abstract_model
from nami_jax.parallel.sharding import make_mesh
from nami_jax.planning.hardware import HOST, find_hardware
from nami_jax.planning.memory import measure, state_parts
from nami_jax.planning.planner import measure_step
from nami_jax.planning.programs import lower_step, run_state
from tests.support.sizes import make_config

FSDP = make_config(mesh={"fsdp": 8})
SHAPES = ((8, 4, 4, 3), (8, 8, 8, 3), (8, 16, 16, 3))


def parameter_bytes(cfg, devices):
    """Kernels are shared by all devices and the rest is on each of them, all in float32."""
    params: dict[tuple, Any] = flatten_dict(abstract_model(cfg.model)[1])
    sizes = {name: math.prod(x.shape) for name, x in params.items()}
    kernels = sum(size for name, size in sizes.items() if name[-1] == "kernel")
    return 4 * (kernels // devices + sum(sizes.values()) - kernels)


@pytest.mark.parametrize("fsdp", [1, 8])
def test_parameters_ema_and_moments_take_what_their_shards_take(fsdp):
    cfg = make_config(mesh={"fsdp": fsdp})
    parts = state_parts(run_state(cfg, make_mesh(cfg.mesh)))
    expected = parameter_bytes(cfg, fsdp)
    assert parts["parameters"] == parts["EMA"] == expected
    assert 0 < parts["moments"] - 2 * expected <= 16  # and the optimizer's counters
    assert parts["other state"] == 4 + 16  # the step, and a key of four words
    assert "frozen parameters" not in parts


@pytest.mark.parametrize("fsdp", [1, 8])
def test_muon_keeps_one_moment_of_the_blocks_kernels(fsdp):
    cfg = make_config(mesh={"fsdp": fsdp}, train={"optimizer": "muon"})
    parts = state_parts(run_state(cfg, make_mesh(cfg.mesh)))
    params: dict[tuple, Any] = flatten_dict(abstract_model(cfg.model)[1])
    matrices = sum(math.prod(x.shape) for name, x in params.items() if "blocks" in name[0] and name[-1] == "kernel")
    expected = 2 * parameter_bytes(cfg, fsdp) - 4 * matrices // fsdp
    assert 0 < parts["moments"] - expected <= 2 * 4 + 3 * 4  # two counters, and Muon's three coefficients


def test_low_rank_pairs_leave_frozen_parameters_in_the_compute_type():
    cfg = make_config(model={"lora_rank": 2, "dtype": "bfloat16"}, train={"init_from": "weights"})
    plain = make_config()
    parts = state_parts(run_state(cfg, make_mesh(MeshConfig())))
    assert parts["frozen parameters"] == parameter_bytes(plain, 1) // 2
    assert parts["parameters"] < parts["frozen parameters"]


def test_compiler_finds_the_arguments_as_large_as_their_shards():
    step = measure_step(FSDP, find_hardware(HOST), make_mesh(FSDP.mesh), SHAPES)
    assert step.fits
    assert step.parts["padding of arguments"] == 0  # the CPU pads nothing
    images = sum(math.prod(shape[1:]) for shape in SHAPES)  # one of each stage on a device
    text = FSDP.text.max_length * FSDP.model.text_dim + FSDP.model.pooled_dim  # of each, and the empty caption's
    assert step.parts["batch"] == 4 * (images + (3 + 1) * text)
    assert step.parts["temporaries"] > 0
    assert step.total == sum(step.parts.values())
    assert step.collectives is not None
    assert step.collectives.traffic["all-gather"].count > 0


def test_what_is_above_the_limit_does_not_fit():
    mesh = make_mesh(FSDP.mesh)
    known = state_parts(run_state(FSDP, mesh))
    size, lower = sum(known.values()), lambda: lower_step(FSDP, mesh, SHAPES)
    host = find_hardware(HOST)
    uncompiled = measure("a step", lower, known, dataclasses.replace(host, memory_limit=size - 1))
    assert not uncompiled.fits
    assert (uncompiled.total, uncompiled.seconds, uncompiled.collectives) == (size, 0.0, None)
    compiled = measure("a step", lower, known, dataclasses.replace(host, memory_limit=size + 1))
    assert not compiled.fits
    assert compiled.total > size + 1
