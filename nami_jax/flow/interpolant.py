"""The training target: a straight path from each stage's noisier, upsampled start to its cleaner, sharper end."""

import jax

from nami_jax.flow.resize import pool, upsample, zero_block_mean
from nami_jax.flow.stages import Stage


def stage_ends(
    latents: jax.Array, noise: jax.Array, stage: Stage, coarse: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Returns the two ends of a stage's path.

    Args:
        latents: (B, H, W, C) clean latents D_k at the stage's own size.
        noise: (B, H, W, C) standard normal noise, the same for both ends so that the path is straight in the noise.
        stage: the stage k.
        coarse: (B, H/2, W/2, C) the clean latents D_{k-1} of the stage before; None: pool(D_k). They need not be the
            pooled ones: the jump takes what the stage before ended in, (1 - e) D_{k-1} and noise, to the start below
            whatever D_{k-1} is, so that sampling continues where training began if both take the same.

    Returns:
        `x_start` = (1 - sigma_start) U(D_{k-1}) + sigma_start n, pure noise for the first stage, and
        `x_end` = (1 - sigma_end) D_k + sigma_end n; both (B, H, W, C).

    Source: NAMI, arXiv 2503.09242, sec. 3.1.
    """
    x_end = (1 - stage.sigma_end) * latents + stage.sigma_end * noise
    if stage.number == 1:
        return noise, x_end
    coarse = pool(latents) if coarse is None else coarse
    x_start = (1 - stage.sigma_start) * upsample(coarse) + stage.sigma_start * noise
    return x_start, x_end


def end_before(latents: jax.Array, noise: jax.Array, sigma_end: float, coarse: jax.Array | None = None) -> jax.Array:
    """Returns the x_end (B, H/2, W/2, C) of the stage before, for the image and noise of this stage.

    Its noise is pooled from this stage's and doubled, which makes it standard normal again.

    Args:
        latents: (B, H, W, C) clean latents D_k at this stage's size.
        noise: (B, H, W, C) standard normal.
        sigma_end: noise level e at which the stage before ends.
        coarse: as for `stage_ends`.
    """
    coarse = pool(latents) if coarse is None else coarse
    return (1 - sigma_end) * coarse + sigma_end * 2 * pool(noise)


def interpolate(x_start: jax.Array, x_end: jax.Array, tau: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the point x_t on the path at local time `tau` (B,) in [0, 1], and the velocity x_start - x_end there."""
    tau = tau[:, None, None, None]
    return tau * x_start + (1 - tau) * x_end, x_start - x_end


def carried_noise(before: jax.Array, fresh: jax.Array) -> jax.Array:
    """Returns a stage's noise, given that of the stage before: what renoising makes of it.

    Its pooled and doubled noise is that of the stage before, so that the end of one's path jumps to the start of the
    other's (`transition.Renoise`), to rounding error.

    Args:
        before: (B, H/2, W/2, C) standard normal.
        fresh: (B, H, W, C) standard normal, what the jump adds.

    Returns:
        (B, H, W, C) standard normal.
    """
    return upsample(before) / 2 + zero_block_mean(fresh)


def clean_estimate(x_end: jax.Array, velocity: jax.Array, stage: Stage, share: float = 1.0) -> jax.Array:
    """Returns the clean latents that the end of a stage's path and its velocity say.

    x_start = x_end + velocity. The means of 2x2 blocks of `stage_ends` are two equations for those of D_k and of the
    noise; within the blocks U(D_{k-1}) is constant, so that x_start has the noise alone, which is taken off x_end.

    Args:
        x_end: (B, H, W, C) where the stage ended.
        velocity: (B, H, W, C) x_start - x_end as predicted last.
        stage: the stage k.
        share: how much of x_end's noise within blocks x_start has, in [0, 1]: `Transition.share` of the jump before. A
            start without it says nothing of D_k there, which is given as constant, unless the stage ends without noise.

    Returns:
        (B, H, W, C).
    """
    start, end = stage.sigma_start, stage.sigma_end
    x_start = x_end + velocity
    if end == 0:
        return x_end
    if stage.number == 1:
        return (x_end - end * x_start) / (1 - end)
    blocks = upsample((start * pool(x_end) - end * pool(x_start)) / (start - end))
    if share == 0:
        return blocks
    return blocks + (zero_block_mean(x_end) - end / (share * start) * zero_block_mean(x_start)) / (1 - end)
