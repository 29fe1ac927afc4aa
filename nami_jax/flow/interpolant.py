"""The training target: a straight path from each stage's noisier, upsampled start to its cleaner, sharper end."""

import jax

from nami_jax.flow.resize import pool, upsample
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
