"""The programs of a run, traced from shapes alone: its training step, and the stages of the pictures that it draws.

After it: `memory` compiles them. Nothing here needs data, weights or the devices themselves.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.stages import Lowered

from nami_jax.config import Config
from nami_jax.flow.stages import Stage, make_stages
from nami_jax.models.bridge import bridge_structure
from nami_jax.models.nami import abstract_model
from nami_jax.parallel.activations import MeshLayout
from nami_jax.parallel.sharding import BATCH, batch_parts
from nami_jax.sampling.sampler import run_stage, stage_grids, stage_shape
from nami_jax.training.compilation import Shapes, abstract_batch
from nami_jax.training.step import State, abstract_state, make_train_step, sampling_weights


def run_state(cfg: Config, mesh: Mesh) -> State:
    """Returns the training state of a run as ShapeDtypeStructs with their shardings."""
    state = abstract_state(cfg, mesh)
    dtype = jnp.dtype(cfg.model.dtype)  # what is not trained need not be finer
    frozen = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding), state["frozen"])
    return state | {"frozen": frozen}


def null_states(cfg: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the empty caption's states: `text_embeds` (1, T, D) and `pooled` (1, P)."""
    return {
        "text_embeds": jax.ShapeDtypeStruct((1, cfg.text.max_length, cfg.model.text_dim), jnp.float32),
        "pooled": jax.ShapeDtypeStruct((1, cfg.model.pooled_dim), jnp.float32),
    }


def lower_step(cfg: Config, mesh: Mesh, shapes: Shapes) -> Lowered:
    """Traces the training step for images of `shapes` and the devices of `mesh`."""
    null, step = null_states(cfg), make_train_step(cfg, mesh)
    return step.lower(run_state(cfg, mesh), abstract_batch(shapes, mesh, null), null)  # pyright: ignore[reportFunctionMemberAccess]


def preview_images(cfg: Config, mesh: Mesh) -> int:
    """Returns how many pictures a run draws at once to show its progress, evenly shared over the devices."""
    count, parts = cfg.train.sample_images + math.ceil(cfg.train.sample_images / 3), batch_parts(mesh)
    return math.ceil(count / parts) * parts


def stage_tracers(cfg: Config, mesh: Mesh, images: int) -> list[Callable[[], Lowered]]:
    """Returns what traces each stage of drawing `images` pictures of data.side x data.side by a run's EMA."""
    stages = make_stages(cfg.model.num_stages, cfg.flow.sigma_ends)
    return [
        functools.partial(_lower_stage, cfg, mesh, images, before, stage)
        for before, stage in zip((None, *stages[:-1]), stages, strict=True)
    ]


def _lower_stage(cfg: Config, mesh: Mesh, images: int, before: Stage | None, stage: Stage) -> Lowered:
    state = run_state(cfg, mesh)
    model = nnx.merge(abstract_model(cfg.model)[0], sampling_weights(state))
    structure = bridge_structure(cfg) if cfg.sample.transition == "bridge" else None
    bridge = None if structure is None else nnx.merge(structure, state["bridge"])
    side = cfg.data.side // cfg.autoencoder.downscale

    def latents(stage: Stage) -> jax.ShapeDtypeStruct:
        shape = images, *stage_shape(cfg.model, stage, side, side)
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, BATCH))

    text = tuple(jax.ShapeDtypeStruct((2 * images, *x.shape[1:]), x.dtype) for x in null_states(cfg).values())
    noise = None if before is None or structure is not None else latents(stage)
    grid: Any = stage_grids(make_stages(cfg.model.num_stages, cfg.flow.sigma_ends), cfg.sample)[stage.number - 1]
    return run_stage.lower(
        model,
        bridge,
        latents(before or stage),
        noise,
        text,
        jax.ShapeDtypeStruct((), jnp.float32),
        grid,
        stage=stage,
        before=before,
        solver=cfg.sample.solver,
        layout=MeshLayout(mesh),
    )
