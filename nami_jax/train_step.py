"""The joint training step over all stages, and the state it turns into the next one.

Before it: `data.loader` gives one batch per stage. After it: `train` logs the metrics and saves the state.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nami_jax.config import Config
from nami_jax.flow.stages import Stage, make_stages
from nami_jax.loss import by_quartile, draw, stage_losses
from nami_jax.models.nami import Nami, abstract_model
from nami_jax.optimizer import learning_rate, make_optimizer
from nami_jax.sharding import BATCH, state_shardings

State = dict[str, Any]


def init_state(cfg: Config, mesh: Mesh) -> State:
    """Creates the training state sharded from the start: no device ever holds all of it.

    Returns:
        A dict of `params`, `ema`, `opt`, `step` () int32 and `key`.
    """
    return jax.jit(_new_state, static_argnums=0, out_shardings=train_shardings(cfg, mesh))(cfg)


def abstract_state(cfg: Config, mesh: Mesh) -> State:
    """Returns the training state as ShapeDtypeStructs with their shardings, for restoring into it."""
    shapes = jax.eval_shape(lambda: _new_state(cfg))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, train_shardings(cfg, mesh)
    )


@functools.cache
def train_shardings(cfg: Config, mesh: Mesh) -> Any:
    """Returns the sharding of every array of the training state, in the state's own structure."""
    return state_shardings(jax.eval_shape(lambda: _new_state(cfg)), mesh)


def _new_state(cfg: Config) -> State:
    # rbg compiles faster than threefry and draws the same numbers on any number of devices.
    key = jax.random.key(cfg.train.seed, impl="rbg")
    params = nnx.to_pure_dict(nnx.state(Nami(cfg.model, rngs=nnx.Rngs(key))))
    return {
        "params": params,
        "ema": jax.tree.map(jnp.copy, params),
        "opt": make_optimizer(cfg.train).init(params),
        "step": jnp.zeros((), jnp.int32),
        "key": key,
    }


@functools.cache
def make_train_step(cfg: Config, mesh: Mesh) -> Callable[[State, Any, Any], tuple[State, dict]]:
    """Returns the jitted step (state, batch, null) -> (state, metrics); the given state is donated.

    The batch is a tuple over stages of `images` (B_k, H_k, W_k, C), `text_embeds` (B_k, T, D), `pooled` (B_k, P); each
    combination of sizes compiles once. `null` holds `text_embeds` (1, T, D) and `pooled` (1, P) of the empty caption,
    which stands in for dropped ones. Metrics: `loss`, `grad_norm`, `learning_rate` (), and `loss_sums`, `loss_counts`
    (K, 4), by stage and quarter of its noise range.

    Args:
        cfg: the run.
        mesh: axes (data, fsdp).
    """
    stages = make_stages(cfg.model.num_stages, cfg.flow.sigma_ends)
    optimizer, schedule = make_optimizer(cfg.train), learning_rate(cfg.train)
    graphdef, _ = abstract_model(cfg.model)

    def loss_fn(params, batch, null, key):
        model = nnx.merge(graphdef, params)
        losses, sums, counts = [], [], []
        for stage, part in zip(stages, batch, strict=True):
            stage_key = jax.random.fold_in(key, stage.number)
            draws = draw(stage_key, part["images"].shape, cfg.flow, cfg.train.caption_dropout)
            losses.append(stage_losses(model, stage, part, null, draws))
            stage_sums, stage_counts = by_quartile(losses[-1], draws.tau)
            sums.append(stage_sums)
            counts.append(stage_counts)
        # Each image counts once, whatever its stage: the phases' ratios are the stages' weights.
        return jnp.concatenate(losses).mean(), {"loss_sums": jnp.stack(sums), "loss_counts": jnp.stack(counts)}

    def step(state, batch, null):
        key = jax.random.fold_in(state["key"], state["step"])
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state["params"], batch, null, key)
        updates, opt = optimizer.update(grads, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        decay = ema_decay(cfg.train.ema_decay, state["step"])
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state["ema"], params)
        metrics |= {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state["step"]),
        }
        return state | {"params": params, "ema": ema, "opt": opt, "step": state["step"] + 1}, metrics

    shardings, everywhere = train_shardings(cfg, mesh), NamedSharding(mesh, PartitionSpec())
    in_shardings = (shardings, NamedSharding(mesh, BATCH), everywhere)
    return jax.jit(step, donate_argnums=0, in_shardings=in_shardings, out_shardings=(shardings, everywhere))


@functools.cache
def make_eval_step(cfg: Config) -> Callable[[Any, Any, Any, jax.Array], jax.Array]:
    """Returns the jitted (params, batch, null, key) -> mean loss per stage (K,): no caption is dropped."""
    stages = make_stages(cfg.model.num_stages, cfg.flow.sigma_ends)
    graphdef, _ = abstract_model(cfg.model)

    def step(params, batch, null, key):
        model = nnx.merge(graphdef, params)
        return jnp.stack(
            [_eval_loss(model, stage, part, null, cfg, key) for stage, part in zip(stages, batch, strict=True)]
        )

    return jax.jit(step)


def _eval_loss(model: Nami, stage: Stage, part: dict, null: dict, cfg: Config, key: jax.Array) -> jax.Array:
    draws = draw(jax.random.fold_in(key, stage.number), part["images"].shape, cfg.flow, caption_dropout=0.0)
    return stage_losses(model, stage, part, null, draws).mean()


def ema_decay(limit: float, step: jax.Array) -> jax.Array:
    """Returns the EMA's decay at a step: at first (1 + s) / (10 + s), which forgets the first weights, then `limit`."""
    return jnp.minimum(limit, (1.0 + step) / (10.0 + step))
