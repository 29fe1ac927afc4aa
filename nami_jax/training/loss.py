"""The flow-matching loss of one stage, and what is random in it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nami_jax.config import FlowConfig
from nami_jax.data.loader import StageBatch
from nami_jax.flow.interpolant import interpolate, stage_ends
from nami_jax.flow.stages import Stage
from nami_jax.flow.times import draw_times
from nami_jax.flow.transition import Transition, start_after
from nami_jax.models.layout import ONE_DEVICE, Layout
from nami_jax.models.nami import Nami
from nami_jax.monitoring.metrics import QUARTILES
from nami_jax.text.encoders import TextStates


class StageDraws(NamedTuple):
    """What is random in one stage's loss."""

    noise: jax.Array  # (B, H, W, C) standard normal
    tau: jax.Array  # (B,) local times in [0, 1]
    drop: jax.Array  # (B,) bool, true where the caption is replaced by the empty one


def draw(key: jax.Array, shape: tuple[int, ...], flow: FlowConfig, caption_dropout: float) -> StageDraws:
    """Draws noise, times and dropped captions for latents of `shape` (B, H, W, C) from one key."""
    noise_key, time_key, drop_key = jax.random.split(key, 3)
    return StageDraws(
        noise=jax.random.normal(noise_key, shape, jnp.float32),
        tau=draw_times(time_key, shape[:1], flow),
        drop=jax.random.uniform(drop_key, shape[:1]) < caption_dropout,
    )


def transition_loss(
    transition: Transition,
    before: Stage,
    stage: Stage,
    latents: jax.Array,
    noise: jax.Array,
    coarse: jax.Array | None = None,
) -> jax.Array:
    """Returns the mean squared error () of `start_after` against the stage's own x_start. NAMI, CVPR 2026 version."""
    x_start, _ = stage_ends(latents, noise, stage, coarse)
    return jnp.mean(jnp.square(start_after(transition, before, latents, noise, coarse) - x_start))


def predict(
    model: Nami,
    stage: Stage,
    batch: StageBatch,
    null: TextStates,
    draws: StageDraws,
    start: jax.Array | None = None,
    layout: Layout = ONE_DEVICE,
) -> tuple[jax.Array, jax.Array]:
    """Lets the network predict the velocity at the points that were drawn.

    Args:
        model: the network.
        stage: the stage k.
        batch: images (B, H, W, C), pixels in [-1, 1] or latents, at the stage's size, and the states of their captions.
        null: the states of the empty caption, B = 1.
        draws: noise, times and dropped captions.
        start: (B, H, W, C) where the path starts, after a learned transition; None: at x_start.
        layout: how the network is spread over devices.

    Returns:
        The predicted velocity and the true one, x_start - x_end, both (B, H, W, C) float32.

    Source: NAMI, arXiv 2503.09242, sec. 3.1.
    """
    x_start, x_end = stage_ends(batch.images, draws.noise, stage, batch.coarse)
    if start is not None:
        x_start = start
    x_t, velocity = interpolate(x_start, x_end, draws.tau)
    text_embeds = jnp.where(draws.drop[:, None, None], null.embeds, batch.text.embeds)
    pooled = jnp.where(draws.drop[:, None], null.pooled, batch.text.pooled)
    predicted = model(x_t, stage.global_time(draws.tau), text_embeds, pooled, stage=stage.number, layout=layout)
    return predicted, velocity


def squared_errors(predicted: jax.Array, velocity: jax.Array) -> jax.Array:
    """Returns the mean squared error of the predicted velocity, one value per image: (B, H, W, C) -> (B,) float32."""
    return jnp.mean(jnp.square(predicted - velocity), axis=(1, 2, 3))


def contrast(predicted: jax.Array, velocity: jax.Array) -> jax.Array:
    """Returns the mean squared distance of each prediction to the velocity of the batch's image before it.

    Contrastive flow matching takes `train.contrastive_weight` = w times this off the loss. The order of a batch is
    random, so the other image is, and its noise: V' is independent of what the network sees, x and the caption c. Where
    the expectation E |v - V|^2 - w E |v - V'|^2 is least, its derivative is 0, and

        v(x, c) = (E[V | x, c] - w E[V]) / (1 - w) = E[V | x, c] + w / (1 - w) (E[V | x, c] - E[V]).

    E[V] is the stage's mean velocity, (1 - sigma_start) U(pool(m)) - (1 - sigma_end) m for the data's mean image m.
    So each prediction is the true velocity moved away from that mean by 1 / (1 - w), 5 % for w = 0.05: no longer the
    velocity of the flow from noise to data, but one that overshoots, as guidance does (which multiplies by the same
    factor what it adds, and wants another scale). (1 - w) v + w E[V] would undo it.

    Args:
        predicted: (B, H, W, C).
        velocity: (B, H, W, C), true ones in the same order; B at least 2.

    Returns:
        (B,) float32.

    Source: Stoica et al., Contrastive Flow Matching, arXiv 2506.05350.
    """
    return squared_errors(predicted, jnp.roll(velocity, 1, axis=0))


def by_quartile(losses: jax.Array, tau: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums losses (B,) by the quarter of the stage's noise range that `tau` (B,) lies in: sums (4,) and counts (4,)."""
    quartile = jnp.clip((tau * QUARTILES).astype(jnp.int32), 0, QUARTILES - 1)
    member = jax.nn.one_hot(quartile, QUARTILES)  # (B, 4)
    return losses @ member, member.sum(axis=0)
