"""The joint training step over all stages, and the state it turns into the next one.

Before it: `data.loader` gives one batch per stage. After it: `trainer` logs the metrics and saves the state.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nami_jax.config import Config
from nami_jax.flow.stages import make_stages
from nami_jax.flow.transition import Bridged
from nami_jax.models import lora
from nami_jax.models.bridge import bridge_structure, new_bridge
from nami_jax.models.nami import Nami, abstract_model
from nami_jax.parallel.activations import MeshLayout
from nami_jax.parallel.sharding import BATCH, state_shardings
from nami_jax.training.loss import StageDraws, by_quartile, draw, stage_losses, start_after
from nami_jax.training.optimizer import learning_rate, make_optimizer
from nami_jax.weights import leaves, nested

State = dict[str, Any]


def init_state(cfg: Config, mesh: Mesh, base: Any = None, bridge: Any = None) -> State:
    """Creates the training state sharded from the start: no device ever holds all of it.

    Args:
        cfg: the run.
        mesh: as `sharding.make_mesh` arranges it.
        base: trained parameters to start from, which are donated; None: random ones.
        bridge: the trained bridge's parameters; None: an untrained one, or none if the run has none.

    Returns:
        A dict of `params` (those that are trained), `ema` of them, `opt`, `step` () int32, `key`, `frozen` (the
        parameters that are not trained; empty without LoRA) and `bridge` (empty without one).
    """
    create = jax.jit(_new_state, static_argnums=0, donate_argnums=1, out_shardings=train_shardings(cfg, mesh))
    # NumPy arrays are the same for all processes; an array on one process's device is not the others' to use.
    return create(cfg, base or {}, jax.tree.map(np.asarray, new_bridge(cfg) if bridge is None else bridge))


def abstract_state(cfg: Config, mesh: Mesh) -> State:
    """Returns the training state as ShapeDtypeStructs with their shardings, for restoring into it."""
    shapes = jax.eval_shape(lambda: _new_state(cfg, {}, new_bridge(cfg)))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, train_shardings(cfg, mesh)
    )


@functools.cache
def train_shardings(cfg: Config, mesh: Mesh) -> Any:
    """Returns the sharding of every array of the training state, in the state's own structure."""
    return state_shardings(jax.eval_shape(lambda: _new_state(cfg, {}, new_bridge(cfg))), mesh)


def _new_state(cfg: Config, base: Any, bridge: Any) -> State:
    # rbg compiles faster than threefry and draws the same numbers on any number of devices.
    key = jax.random.key(cfg.train.seed, impl="rbg")
    fresh = nnx.to_pure_dict(nnx.state(Nami(cfg.model, rngs=nnx.Rngs(key))))
    params = nested(dict(leaves(fresh)) | dict(leaves(base)))
    params, frozen = lora.split(params) if cfg.model.lora_rank else (params, {})
    return {
        "params": params,
        "ema": jax.tree.map(jnp.copy, params),
        "opt": make_optimizer(cfg.train).init(params),
        "step": jnp.zeros((), jnp.int32),
        "key": key,
        "frozen": frozen,
        "bridge": bridge,
    }


def sampling_weights(state: State) -> Any:
    """Returns the network's parameters to validate and sample with: the EMA, with what is not trained."""
    return lora.join(state["ema"], state["frozen"])


@functools.cache
def make_train_step(cfg: Config, mesh: Mesh) -> Callable[[State, Any, Any], tuple[State, dict]]:
    """Returns the jitted step (state, batch, null) -> (state, metrics); the given state is donated.

    The batch is a tuple over stages of `images` (B_k, H_k, W_k, C), `text_embeds` (B_k, T, D), `pooled` (B_k, P); each
    combination of sizes compiles once. `null` holds `text_embeds` (1, T, D) and `pooled` (1, P) of the empty caption,
    which stands in for dropped ones. Metrics: `loss`, `grad_norm`, the latter also for each part of the network as
    `grad_norm/PART`, `learning_rate` and `skipped`, all (); and `loss_sums`, `loss_counts` (K, 4), by stage and quarter
    of its noise range.

    A step whose loss or gradient is not finite is skipped: it changes nothing but the count of steps, so that the next
    one takes the next batch. `skipped` is then 1.

    Args:
        cfg: the run.
        mesh: as `sharding.make_mesh` arranges it.
    """
    optimizer, schedule = make_optimizer(cfg.train), learning_rate(cfg.train)
    stage_parts = _stage_loss(cfg, mesh, cfg.train.caption_dropout)

    def loss_fn(params, frozen, bridge, batch, null, key):
        losses, sums, counts = [], [], []
        for per_image, draws in stage_parts(lora.join(params, frozen), bridge, batch, null, key):
            losses.append(per_image)
            stage_sums, stage_counts = by_quartile(per_image, draws.tau)
            sums.append(stage_sums)
            counts.append(stage_counts)
        # Each image counts once, whatever its stage: the phases' ratios are the stages' weights.
        return jnp.concatenate(losses).mean(), {"loss_sums": jnp.stack(sums), "loss_counts": jnp.stack(counts)}

    def step(state, batch, null):
        key = jax.random.fold_in(state["key"], state["step"])
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state["params"], state["frozen"], state["bridge"], batch, null, key
        )
        rate, grad_norm = schedule(state["step"]), optax.tree.norm(grads)
        updates, opt = optimizer.update(grads, state["opt"], state["params"])
        params = jax.tree.map(lambda p, u: p - rate * u, state["params"], updates)
        decay = ema_decay(cfg.train.ema_decay, state["step"])
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state["ema"], params)

        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        new = {"params": params, "ema": ema, "opt": opt}
        kept = jax.tree.map(lambda n, old: jnp.where(finite, n, old), new, {name: state[name] for name in new})
        metrics = jax.tree.map(lambda x: jnp.where(finite, x, 0), metrics)  # of a skipped step no image counts
        metrics |= {"loss": loss, "grad_norm": grad_norm, "learning_rate": rate, "skipped": 1.0 - finite}
        metrics |= {f"grad_norm/{part}": optax.tree.norm(of_part) for part, of_part in grads.items()}
        return state | kept | {"step": state["step"] + 1}, metrics

    shardings, replicated = train_shardings(cfg, mesh), NamedSharding(mesh, PartitionSpec())
    in_shardings = (shardings, NamedSharding(mesh, BATCH), replicated)
    return jax.jit(step, donate_argnums=0, in_shardings=in_shardings, out_shardings=(shardings, replicated))


@functools.cache
def make_eval_step(cfg: Config, mesh: Mesh) -> Callable[[Any, Any, Any, Any, np.uint32], jax.Array]:
    """Returns the jitted (params, bridge, batch, null, number) -> mean loss per stage (K,): no caption is dropped.

    What is drawn is a function of `train.seed` and the batch's number () uint32 alone.
    """
    stage_parts = _stage_loss(cfg, mesh, caption_dropout=0.0)

    def step(params, bridge, batch, null, number):
        key = jax.random.fold_in(jax.random.key(cfg.train.seed), number)
        return jnp.stack([losses.mean() for losses, _ in stage_parts(params, bridge, batch, null, key)])

    return jax.jit(step, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _stage_loss(
    cfg: Config, mesh: Mesh, caption_dropout: float
) -> Callable[..., Iterator[tuple[jax.Array, StageDraws]]]:
    """Returns (params, bridge, batch, null, key) -> each stage's losses (B_k,) and what was drawn for them."""
    stages = make_stages(cfg.model.num_stages, cfg.flow.sigma_ends)
    graphdef, bridge_graphdef, layout = abstract_model(cfg.model)[0], bridge_structure(cfg), MeshLayout(mesh)

    def losses(params, bridge, batch, null, key):
        model = nnx.merge(graphdef, params)
        learned = None if bridge_graphdef is None else Bridged(nnx.merge(bridge_graphdef, bridge))
        for before, stage, part in zip((None, *stages[:-1]), stages, batch, strict=True):
            draws = draw(jax.random.fold_in(key, stage.number), part["images"].shape, cfg.flow, caption_dropout)
            start = None
            if learned is not None and before is not None:
                start = start_after(learned, before, part["images"], draws.noise)
            yield stage_losses(model, stage, part, null, draws, start, layout), draws

    return losses


def ema_decay(limit: float, step: jax.Array) -> jax.Array:
    """Returns the EMA's decay at a step: at first (1 + s) / (10 + s), which forgets the first weights, then `limit`."""
    return jnp.minimum(limit, (1.0 + step) / (10.0 + step))
