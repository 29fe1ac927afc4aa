"""The jump from the end of one stage to the start of the next, twice as large, in closed form.

Its learned counterpart, the bridge of the released model, is `nami_jax.models.bridge`; both take the last stage's
result and return the next stage's start.
"""

import jax

from nami_jax.flow.resize import upsample, zero_block_mean
from nami_jax.flow.stages import renoised_sigma


def renoise(x: jax.Array, noise: jax.Array, sigma_end: float) -> jax.Array:
    """Upsamples a stage's result and adds just the noise that makes its noise white again.

    The upsampled noise already carries the block means, so only noise of zero block mean is added. If `x` has mean
    (1 - e) D and covariance e^2 I, e = `sigma_end`, and noise pooled from the finer grid's, the result is distributed
    as the next stage's training start: mean (1 - sigma_start) U(D), covariance sigma_start^2 I, sigma_start = 2e/(1+e).

    Args:
        x: (B, H, W, C) the latents at the end of the stage before.
        noise: (B, 2H, 2W, C) standard normal.
        sigma_end: noise level e at which that stage ended.

    Returns:
        (B, 2H, 2W, C).

    Source: Pyramidal Flow Matching, arXiv 2410.05954, sec. 3.2, with the least correlated noise.
    """
    return upsample(x) / (1 + sigma_end) + renoised_sigma(sigma_end) * zero_block_mean(noise)
