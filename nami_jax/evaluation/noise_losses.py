"""The network's own error on pictures, by stage and by noise: always at the same noise and the same times."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nami_jax.data.images import to_stage
from nami_jax.flow.interpolant import interpolate, stage_ends
from nami_jax.flow.stages import Stage
from nami_jax.flow.transition import Bridged, start_after
from nami_jax.models.layout import Layout
from nami_jax.parallel.kept_programs import BoundedJit
from nami_jax.sampling.sampler import Sampler
from nami_jax.sampling.stage_programs import Networks, image_noise
from nami_jax.terminal.progress import progress_bar
from nami_jax.text.encoders import TextStates

QUARTERS = 4  # of a stage's noise range
TIMES = 8  # local times of a stage, evenly spaced: two in each quarter
BATCH = 64


def losses_by_noise(
    sampler: Sampler,
    networks: Networks,
    images: np.ndarray,
    text: TextStates,
    seed: int,
    *,
    lower: Sequence[np.ndarray] = (),
    progress: bool = False,
) -> np.ndarray:
    """Computes the squared error of the predicted velocity at `TIMES` local times of every stage.

    That is the flow matching loss without caption dropout, of a path that starts after the network's own transition,
    whatever the network was trained with; times count alike, and not as often as in training.

    Args:
        sampler: of the networks: its stages and layout.
        networks: the network, and the transition.
        images: (N, H, W, C) at the last stage's size, pixels in [-1, 1] or latents.
        text: states of their captions, embeds (N, T, D) and pooled (N, P).
        seed: of the noise; that of picture i is a function of the seed and i.
        lower: the images at the sizes of stages K-1, ..., 1, as the network was trained on them; none: pooled.
        progress: show a bar.

    Returns:
        (N, K, TIMES) float32, from the cleanest time to the noisiest.

    Source: NAMI, arXiv 2503.09242, sec. 3.1.
    """
    count, size = len(images), -(-min(BATCH, len(images)) // sampler.layout.batch_parts) * sampler.layout.batch_parts
    levels = (images, *lower)
    losses = np.zeros((count, len(sampler.stages), TIMES), np.float32)
    for first in progress_bar(range(0, count, size), desc="loss by noise", disable=not progress):
        rows = np.arange(first, first + size) % count  # filled up with the first ones
        own = TextStates(text.embeds[rows], text.pooled[rows])
        for k, (before, stage) in enumerate(zip((None, *sampler.stages[:-1]), sampler.stages, strict=True)):
            level = len(sampler.stages) - stage.number
            latents = levels[level][rows] if lower else to_stage(images[rows], stage.downscale)
            coarse = levels[level + 1][rows] if lower and before is not None else None
            noise = image_noise(seed, rows.tolist(), stage, latents.shape[1:], sampler.layout)
            found = stage_errors((stage, before, sampler.layout), networks, latents, noise, own, coarse)
            kept = min(size, count - first)
            losses[first : first + kept, k] = np.asarray(sampler.layout.replicate(found))[:kept]
    return losses


@BoundedJit
def stage_errors(
    kind: tuple[Stage, Stage | None, Layout],
    networks: Networks,
    latents: jax.Array,
    noise: jax.Array,
    text: tuple[jax.Array, jax.Array],
    coarse: jax.Array | None,
) -> jax.Array:
    """Returns the errors (B, TIMES) of one stage.

    Args:
        kind: the stage, the one before it or None, and how the network is spread over devices.
        networks: the network, and the transition into the stage.
        latents: (B, H, W, C) at the stage's size.
        noise: (B, H, W, C) standard normal.
        text: embeds (B, T, D) and pooled (B, P).
        coarse: as for `stage_ends`.
    """
    (stage, before, layout), (embeds, pooled) = kind, text
    x_start, x_end = stage_ends(latents, noise, stage, coarse)
    if before is not None and isinstance(networks.transition, Bridged):  # the path starts where it arrives
        x_start = start_after(networks.transition, before, latents, noise, coarse)

    def at(tau: jax.Array) -> jax.Array:
        taus = jnp.full(len(latents), tau)
        x_t, velocity = interpolate(x_start, x_end, taus)
        predicted = networks.model(x_t, stage.global_time(taus), embeds, pooled, stage=stage.number, layout=layout)
        return jnp.mean(jnp.square(predicted - velocity), axis=(1, 2, 3))

    return jax.lax.map(at, (jnp.arange(TIMES) + 0.5) / TIMES).T


def by_quarter(losses: np.ndarray) -> np.ndarray:
    """Averages losses (N, K, TIMES) over the times of each quarter of the noise range: (N, K, QUARTERS)."""
    return losses.reshape(*losses.shape[:2], QUARTERS, -1).mean(-1)
