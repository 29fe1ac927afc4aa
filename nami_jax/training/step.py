"""The joint training step of a flow over all stages, and the state that it begins with."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nami_jax.config import Config, FlowConfig, require
from nami_jax.data.loader import Batch
from nami_jax.flow.transition import start_after
from nami_jax.models import lora
from nami_jax.models.bridge import new_bridge
from nami_jax.models.initialisation import parameter_rngs
from nami_jax.models.layout import Layout
from nami_jax.models.nami import Nami
from nami_jax.parallel.compiler import compiler_options
from nami_jax.parallel.sharding import BATCH, batch_parts, require_divisible, state_shardings
from nami_jax.text.encoders import TextStates
from nami_jax.training.flow_parts import flow_parts
from nami_jax.training.loss import StageDraws, by_quartile, contrast, draw, predict, squared_errors
from nami_jax.training.state import TrainState, advance, make_optimizer

UNIFORM = FlowConfig(time_sampling="uniform")


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
    # Parameters are drawn by rbg, which compiles faster than threefry; the noise of training is not: see `step_key`.
    key = jax.random.key(cfg.train.seed, impl="rbg")
    fresh = nnx.to_pure_dict(nnx.state(Nami(cfg.model, rngs=parameter_rngs(key))))
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
    optimizer, predictions = flow_parts(cfg, mesh).optimizer, _predictions(cfg, mesh, layout)
    weight = cfg.train.contrastive_weight

    def step(state, batch, null):
        def loss_fn(params, part):
            images, draws = part
            pairs = list(predictions(lora.join(params, state.frozen), state.bridge, images, null, draws))
            losses = [squared_errors(*pair) for pair in pairs]
            sums, counts = zip(
                *(by_quartile(of, drawn.tau) for of, drawn in zip(losses, draws, strict=True)), strict=True
            )
            # Each image counts once, whatever its stage: the phases' ratios are the stages' weights.
            loss = jnp.concatenate(losses).mean()
            metrics = {"loss_sums": jnp.stack(sums), "loss_counts": jnp.stack(counts)}
            if weight == 0:
                return loss, (loss, metrics)
            return loss - weight * jnp.concatenate([contrast(*pair) for pair in pairs]).mean(), (loss, metrics)

        def loss_and_gradients(params, part):
            (_, reported), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, part)
            return reported, grads  # the squared error alone: what it is compared with has no contrast

        def gradients(params, key):
            part = batch, _draws(cfg.flow, batch, key, cfg.train.caption_dropout)
            return _accumulated(loss_and_gradients, params, part, cfg.train.accumulation_steps, mesh)

        return advance(state, gradients, optimizer, cfg.train.ema_decay)

    shardings, replicated = train_shardings(cfg, mesh), NamedSharding(mesh, PartitionSpec())
    in_shardings = (shardings, NamedSharding(mesh, BATCH), replicated)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=in_shardings,
        out_shardings=(shardings, replicated),
        compiler_options=compiler_options(mesh.devices.flat[0]),
    )


@functools.cache
def make_eval_step(cfg: Config, mesh: Mesh) -> Callable[[Any, Any, Batch, TextStates, np.uint32], jax.Array]:
    """Returns the jitted (params, bridge, batch, null, number) -> mean loss per stage (K,): no caption is dropped.

    What is drawn is a function of `train.seed` and the batch's number () uint32 alone. Times are uniform, whatever they
    are in training: runs of different densities are compared by one measure.
    """
    predictions = _predictions(cfg, mesh)

    def step(params, bridge, batch, null, number):
        key = jax.random.fold_in(jax.random.key(cfg.train.seed), number)
        draws = _draws(UNIFORM, batch, key, caption_dropout=0.0)
        pairs = predictions(params, bridge, batch, null, draws)
        return jnp.stack([squared_errors(*pair).mean() for pair in pairs])

    return jax.jit(
        step,
        out_shardings=NamedSharding(mesh, PartitionSpec()),
        compiler_options=compiler_options(mesh.devices.flat[0]),
    )


def _draws(flow: FlowConfig, batch: Batch, key: jax.Array, caption_dropout: float) -> tuple[StageDraws, ...]:
    """Draws what is random in each stage's loss, 1..K."""
    return tuple(
        draw(jax.random.fold_in(key, number), part.images.shape, flow, caption_dropout)
        for number, part in enumerate(batch, start=1)
    )


def _predictions(
    cfg: Config, mesh: Mesh, layout: Layout | None = None
) -> Callable[..., Iterator[tuple[jax.Array, jax.Array]]]:
    """Returns (params, bridge, batch, null, draws) -> each stage's predicted and true velocity (B_k, H_k, W_k, C)."""
    parts = flow_parts(cfg, mesh)
    stages, layout = parts.stages, layout or parts.layout

    def pairs(params, bridge, batch, null, draws):
        model = nnx.merge(parts.structure, params)
        learned = None if parts.bridge is None else parts.transition(bridge)
        for before, stage, part, drawn in zip((None, *stages[:-1]), stages, batch, draws, strict=True):
            start = None
            if learned is not None and before is not None:
                start = start_after(learned, before, part.images, drawn.noise, part.coarse)
            yield predict(model, stage, part, null, drawn, start, layout)

    return pairs


def _accumulated(gradients: Callable[[Any, Any], Any], params: Any, batch: Any, parts: int, mesh: Mesh) -> Any:
    """Averages the loss and the gradients of a batch's parts, and adds up its metrics.

    Args:
        gradients: (params, a part of the batch) -> ((loss, metrics), gradients).
        params: as they are before the step.
        batch: pytree of arrays, images first (B_k, ...); each device's images are shared among all parts.
        parts: how many.
        mesh: that the batch is spread over.
    """
    if parts == 1:
        return gradients(params, batch)

    def split(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)  # (parts, B_k / parts, ...)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, *BATCH)))

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradients(params, part)), None

    split_batch = jax.tree.map(split, batch)
    one = jax.eval_shape(gradients, params, jax.tree.map(lambda x: x[0], split_batch))
    total, _ = jax.lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), one), split_batch)
    (loss, metrics), grads = total
    return (loss / parts, metrics), jax.tree.map(lambda g: g / parts, grads)


def require_parts(cfg: Config, mesh: Mesh) -> None:
    """Checks that the images of every stage split evenly over the parts of a step and over the devices.

    Raises:
        ConfigError: they do not.
    """
    parts, devices = cfg.train.accumulation_steps, batch_parts(mesh)
    require_divisible("train.stage_batches", cfg.train.stage_batches, mesh)
    shared = math.gcd(*(count // devices for sizes in cfg.train.stage_batches for count in sizes))
    require(
        shared % parts == 0,
        field="train.accumulation_steps",
        value=parts,
        rule=f"must divide the images of each stage in train.stage_batches = {cfg.train.stage_batches}"
        + (f", also those of each of {devices} devices" if devices > 1 else ""),
        remedy=f"Set {math.gcd(shared, parts)}, or other images",
    )
