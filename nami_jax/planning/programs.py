"""The programs of a run, traced from shapes alone: its training step, and the stages of the pictures that it draws.

Nothing here needs data, weights or the devices themselves.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.stages import Lowered

from nami_jax.config import Config
from nami_jax.models.layout import Layout
from nami_jax.parallel.sharding import BATCH, batch_parts
from nami_jax.sampling.stage_programs import run_stage
from nami_jax.sampling.velocity import Guidance, StageProgram
from nami_jax.training.compilation import BatchShapes, abstract_batch, null_states
from nami_jax.training.flow_parts import flow_parts
from nami_jax.training.state import TrainState
from nami_jax.training.step import abstract_state, make_train_step


def run_state(cfg: Config, mesh: Mesh) -> TrainState:
    """Returns the training state of a run as ShapeDtypeStructs with their shardings."""
    state = abstract_state(cfg, mesh)
    dtype = jnp.dtype(cfg.model.dtype)  # what is not trained need not be finer
    frozen = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding), state.frozen)
    return dataclasses.replace(state, frozen=frozen)


def lower_step(cfg: Config, mesh: Mesh, shapes: BatchShapes, layout: Layout | None = None) -> Lowered:
    """Traces the training step for images of `shapes` and the devices of `mesh`; `layout` replaces the run's own."""
    null, step = null_states(cfg), make_train_step(cfg, mesh, layout)
    return step.lower(run_state(cfg, mesh), abstract_batch(cfg, shapes, mesh, null), null)  # pyright: ignore[reportFunctionMemberAccess]


def preview_images(cfg: Config, mesh: Mesh) -> int:
    """Returns how many pictures a run draws at once to show its progress, evenly shared over the devices."""
    count, parts = cfg.train.sample_images + math.ceil(cfg.train.sample_images / 3), batch_parts(mesh)
    return math.ceil(count / parts) * parts


def stage_tracers(cfg: Config, mesh: Mesh, images: int) -> list[Callable[[], Lowered]]:
    """Returns what traces each stage of drawing `images` pictures of data.side x data.side by a run's EMA."""
    sampler = flow_parts(cfg, mesh).sampler
    side = cfg.data.side // cfg.autoencoder.downscale
    latents = [
        jax.ShapeDtypeStruct((images, *shape), jnp.float32, sharding=NamedSharding(mesh, BATCH))
        for shape in sampler.shapes(side, side)
    ]

    def trace(program: StageProgram, grid: Any) -> Lowered:
        networks, at = flow_parts(cfg, mesh).networks(run_state(cfg, mesh)), program.stage.number - 1
        x = latents[at] if program.before is None else latents[at - 1]
        noise = latents[at] if program.before is not None and networks.transition.share else None
        embeds, pooled = (
            jax.ShapeDtypeStruct((2 * images, *states.shape[1:]), states.dtype) for states in null_states(cfg)
        )
        guidance = Guidance((embeds, pooled), jax.ShapeDtypeStruct((), jnp.float32))
        arguments = networks, x, noise, guidance, grid
        return run_stage.jitted(program, *arguments).lower(*arguments)

    return [functools.partial(trace, program, grid) for program, grid in sampler.programs(cfg.sample)]
