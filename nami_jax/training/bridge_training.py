"""Trains the bridge on its own, before the stages, which then train from where the bridge leads."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nami_jax.config import Config
from nami_jax.data.examples import ExampleSource
from nami_jax.data.loader import Batch, train_loader
from nami_jax.models.bridge import new_bridge
from nami_jax.monitoring.metrics import NonFiniteError
from nami_jax.parallel.processes import is_main
from nami_jax.parallel.sharding import BATCH, host_shard, shard_batch
from nami_jax.terminal.progress import progress_bar
from nami_jax.training.flow_parts import flow_parts
from nami_jax.training.loss import transition_loss

RATE = "bridge.learning_rate"


def train_bridge(cfg: Config, mesh: Mesh, sources: Sequence[ExampleSource]) -> Any:
    """Trains a bridge by Adam for `bridge.steps` steps, on the batches of the run's first phase.

    The same run trains the same bridge again, so one that was interrupted simply starts over.

    Args:
        cfg: the run; its `bridge.kind` is set.
        mesh: as `sharding.make_mesh` arranges it.
        sources: the training split, one source for each size of image.

    Returns:
        The bridge's parameters, on every device.

    Raises:
        NonFiniteError: the loss became NaN or infinite.

    Source: NAMI, CVPR 2026 version (mean squared error, learning rate 1e-3, about 10,000 steps).
    """
    alone = dataclasses.replace(
        cfg.train,
        steps=cfg.bridge.steps,
        stage_batches=cfg.train.stage_batches[:1],
        phase_starts=(0.0,),
        phase_learning_rates=cfg.train.phase_learning_rates[:1],
    )
    loader: Iterator[Batch] = train_loader(sources, dataclasses.replace(cfg, train=alone), host_shard(mesh))
    optimizer, step = _optimizer(cfg), make_bridge_step(cfg, mesh)
    params = new_bridge(cfg)
    first = jax.tree.map(np.asarray, (params, optimizer.init(params)))
    state = jax.device_put(first, NamedSharding(mesh, PartitionSpec()))
    with progress_bar(range(cfg.bridge.steps), desc="training the bridge", unit="step", disable=not is_main()) as bar:
        for i in bar:
            images = tuple((part.images, part.coarse) for part in next(loader))
            state, loss = step(state, shard_batch(images, mesh), np.uint32(i))
            if (i + 1) % cfg.train.log_every == 0 or i + 1 == cfg.bridge.steps:
                if not np.isfinite(loss):
                    raise NonFiniteError(f"training the bridge, step {i + 1}: the loss is {loss}. Lower {RATE}.")
                bar.set_postfix_str(f"loss {float(loss):.4f}", refresh=False)
    return state[0]


def _optimizer(cfg: Config) -> optax.GradientTransformation:
    # Falling to 0 at the end: a constant rate would leave the parameters trembling around the solution.
    return optax.adam(optax.cosine_decay_schedule(cfg.bridge.learning_rate, cfg.bridge.steps))


@functools.lru_cache(maxsize=8)  # each keeps what was compiled for a run
def make_bridge_step(cfg: Config, mesh: Mesh) -> Callable[[Any, Any, np.uint32], tuple[Any, jax.Array]]:
    """Returns the jitted ((params, moments), images, number) -> ((params, moments), loss); the first is donated.

    Images are (B_k, H_k, W_k, C) for each stage, paired with those at the size of the stage before, or None to pool
    them. The noise is a function of `train.seed` and the step's number () uint32 alone.
    """
    parts, optimizer = flow_parts(cfg, mesh), _optimizer(cfg)

    def loss_fn(params, images, key):
        transition = parts.transition(params)
        losses = []
        for before, stage, (latents, coarse) in zip(parts.stages[:-1], parts.stages[1:], images[1:], strict=True):
            noise = jax.random.normal(jax.random.fold_in(key, stage.number), latents.shape)
            losses.append(transition_loss(transition, before, stage, latents, noise, coarse))
        return sum(losses)

    def step(state, images, number):
        params, moments = state
        key = jax.random.fold_in(jax.random.key(cfg.train.seed), number)
        loss, grads = jax.value_and_grad(loss_fn)(params, images, key)
        updates, moments = optimizer.update(grads, moments, params)
        return (optax.apply_updates(params, updates), moments), loss

    replicated = NamedSharding(mesh, PartitionSpec())
    shardings = (replicated, NamedSharding(mesh, BATCH), replicated)
    return jax.jit(step, donate_argnums=0, in_shardings=shardings, out_shardings=replicated)
