"""Floating-point operations as XLA counts them from the traced program, to check `nami_jax.monitoring.flops` against.

Nothing is run here. One multiplication and one addition are two FLOPs.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nami_jax.config import Config, MeshConfig, ModelConfig, SampleConfig
from nami_jax.flow.solver import SOLVERS
from nami_jax.models.layout import Layout
from nami_jax.models.nami import abstract_model
from nami_jax.parallel.sharding import make_mesh
from nami_jax.planning.programs import lower_step
from nami_jax.sampling.sampler import make_sampler
from nami_jax.sampling.velocity import Guidance, stage_velocity
from nami_jax.training.compilation import BatchShapes


class AtOnce(Layout):
    """One device that attends all queries at once: their chunks are a loop, which XLA would count as one of them."""

    def attention(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        """As `Layout.attention`."""
        return jax.nn.dot_product_attention(q, k, v)


def xla_flops(function: Callable[..., Any], *args: Any) -> float:
    """Asks XLA for the FLOPs of `function` of `args` (arrays or ShapeDtypeStructs), without compiling or running it.

    Products and element-by-element arithmetic are both counted. The body of a `lax.scan` is counted once, whatever its
    length: give it the body, and multiply.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # not every platform's XLA counts
        cost = jax.jit(function).lower(*args).cost_analysis()
    assert cost is not None
    return cost["flops"]


def training_xla_flops(cfg: Config, shapes: BatchShapes) -> float:
    """Counts a training step on images of `shapes`, with what rematerialisation computes again, if it is on."""
    model, train = (
        dataclasses.replace(cfg.model, scan_blocks=False),
        dataclasses.replace(cfg.train, accumulation_steps=1),
    )
    cfg = dataclasses.replace(cfg, mesh=MeshConfig(), model=model, train=train)
    mesh = make_mesh(devices=jax.local_devices(backend="cpu")[:1])
    cost = lower_step(cfg, mesh, shapes, AtOnce()).cost_analysis()
    assert cost is not None
    return cost["flops"]


def sampling_xla_flops(
    model: ModelConfig, sample: SampleConfig, side: int, text_tokens: int, batch: int = 1
) -> tuple[float, ...]:
    """Counts as `sampling_flops` does, by XLA: one velocity of each stage, times the evaluations, guided and not."""
    graphdef, params = abstract_model(dataclasses.replace(model, scan_blocks=False))
    text = struct(2 * batch, text_tokens, model.text_dim), struct(2 * batch, model.pooled_dim)
    counts, sampler = [], make_sampler(model, layout=AtOnce())
    for (program, _), shape in zip(sampler.programs(sample), sampler.shapes(side, side), strict=True):

        def velocity(params, x, t, text, guided, program=program):
            guidance = Guidance(text, np.float32(3))
            return stage_velocity(nnx.merge(graphdef, params), guidance, program, guided)(x, t)

        def count(guided, velocity=velocity, shape=shape):
            function = functools.partial(velocity, guided=guided)
            return xla_flops(function, params, struct(batch, *shape), struct(), text)

        flops = {guided: count(guided) for guided in set(program.guided)}
        counts.append(len(SOLVERS[sample.solver].asks) * sum(flops[guided] for guided in program.guided))
    return tuple(counts)


def struct(*shape: int) -> jax.ShapeDtypeStruct:
    """Returns a float32 array's shape, to trace with in its place."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)
