"""The joint training step of a flow over all stages, and the state that it begins with."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nami_jax.config import Config
from nami_jax.data.loader import Batch
from nami_jax.flow.transition import Bridged
from nami_jax.models import lora
from nami_jax.models.bridge import new_bridge
from nami_jax.models.layout import Layout
from nami_jax.models.nami import Nami
from nami_jax.parallel.sharding import BATCH, state_shardings
from nami_jax.text.encoders import TextStates
from nami_jax.training.flow_parts import flow_parts
from nami_jax.training.loss import StageDraws, by_quartile, draw, stage_losses, start_after
from nami_jax.training.state import TrainState, advance, make_optimizer


def init_state(cfg: Config, mesh: Mesh, base: Any = None, bridge: Any = None) -> TrainState:
    """Creates the training state sharded from the start: no device ever holds all of it.

    Args:
        cfg: the run.
        mesh: as `sharding.make_mesh` arranges it.
        base: trained parameters to start from, which are donated; None: random ones.
        bridge: the trained bridge's parameters; None: an untrained one, or none if the run has none.
    """
    create = jax.jit(_new_state, static_argnums=0, donate_argnums=1, out_shardings=train_shardings(cfg, mesh))
    # NumPy arrays are the same for all processes; an array on one process's device is not the others' to use.
    return create(cfg, base or {}, jax.tree.map(np.asarray, new_bridge(cfg) if bridge is None else bridge))


@functools.cache
def state_shapes(cfg: Config) -> TrainState:
    """Returns the training state as ShapeDtypeStructs."""
    return jax.eval_shape(lambda: _new_state(cfg, {}, new_bridge(cfg)))


def abstract_state(cfg: Config, mesh: Mesh) -> TrainState:
    """Returns the training state as ShapeDtypeStructs with their shardings, for restoring into it."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state_shapes(cfg), train_shardings(cfg, mesh)
    )


@functools.cache
def train_shardings(cfg: Config, mesh: Mesh) -> TrainState:
    """Returns the sharding of every array of the training state, in the state's own structure."""
    return state_shardings(state_shapes(cfg), mesh)


def _new_state(cfg: Config, base: Any, bridge: Any) -> TrainState:
    # rbg compiles faster than threefry and draws the same numbers on any number of devices.
    key = jax.random.key(cfg.train.seed, impl="rbg")
    fresh = nnx.to_pure_dict(nnx.state(Nami(cfg.model, rngs=nnx.Rngs(key))))
    params = unflatten_dict(flatten_dict(fresh) | flatten_dict(base))
    params, frozen = lora.split(params) if cfg.model.lora_rank else (params, {})
    return TrainState.begin(params, make_optimizer(cfg.train).transform.init(params), key, frozen=frozen, bridge=bridge)


@functools.cache
def make_train_step(
    cfg: Config, mesh: Mesh, layout: Layout | None = None
) -> Callable[[TrainState, Batch, TextStates], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the jitted step (state, batch, null) -> (state, metrics); the given state is donated.

    Each combination of the batch's sizes compiles once. `null` are the states of the empty caption, B = 1, which stand
    in for dropped ones. Metrics are those of `advance`, and `loss_sums`, `loss_counts` (K, 4), by stage and quarter of
    its noise range.

    Args:
        cfg: the run.
        mesh: as `sharding.make_mesh` arranges it.
        layout: another than the run's own, to compare with.
    """
    optimizer = flow_parts(cfg, mesh).optimizer
    stage_parts = _stage_loss(cfg, mesh, cfg.train.caption_dropout, layout)

    def step(state, batch, null):
        def loss_fn(params, key):
            losses, sums, counts = [], [], []
            for per_image, draws in stage_parts(lora.join(params, state.frozen), state.bridge, batch, null, key):
                losses.append(per_image)
                stage_sums, stage_counts = by_quartile(per_image, draws.tau)
                sums.append(stage_sums)
                counts.append(stage_counts)
            # Each image counts once, whatever its stage: the phases' ratios are the stages' weights.
            return jnp.concatenate(losses).mean(), {"loss_sums": jnp.stack(sums), "loss_counts": jnp.stack(counts)}

        return advance(state, loss_fn, optimizer, cfg.train.ema_decay)

    shardings, replicated = train_shardings(cfg, mesh), NamedSharding(mesh, PartitionSpec())
    in_shardings = (shardings, NamedSharding(mesh, BATCH), replicated)
    return jax.jit(step, donate_argnums=0, in_shardings=in_shardings, out_shardings=(shardings, replicated))


@functools.cache
def make_eval_step(cfg: Config, mesh: Mesh) -> Callable[[Any, Any, Batch, TextStates, np.uint32], jax.Array]:
    """Returns the jitted (params, bridge, batch, null, number) -> mean loss per stage (K,): no caption is dropped.

    What is drawn is a function of `train.seed` and the batch's number () uint32 alone.
    """
    stage_parts = _stage_loss(cfg, mesh, caption_dropout=0.0)

    def step(params, bridge, batch, null, number):
        key = jax.random.fold_in(jax.random.key(cfg.train.seed), number)
        return jnp.stack([losses.mean() for losses, _ in stage_parts(params, bridge, batch, null, key)])

    return jax.jit(step, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _stage_loss(
    cfg: Config, mesh: Mesh, caption_dropout: float, layout: Layout | None = None
) -> Callable[..., Iterator[tuple[jax.Array, StageDraws]]]:
    """Returns (params, bridge, batch, null, key) -> each stage's losses (B_k,) and what was drawn for them."""
    parts = flow_parts(cfg, mesh)
    stages, layout = parts.stages, layout or parts.layout

    def losses(params, bridge, batch, null, key):
        model = nnx.merge(parts.structure, params)
        learned = None if parts.bridge is None else Bridged(nnx.merge(parts.bridge, bridge))
        for before, stage, part in zip((None, *stages[:-1]), stages, batch, strict=True):
            draws = draw(jax.random.fold_in(key, stage.number), part.images.shape, cfg.flow, caption_dropout)
            start = None
            if learned is not None and before is not None:
                start = start_after(learned, before, part.images, draws.noise)
            yield stage_losses(model, stage, part, null, draws, start, layout), draws

    return losses
