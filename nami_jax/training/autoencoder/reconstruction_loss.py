"""What an autoencoder is trained to minimise: differences from the images, in pixels and features, and the latents' KL.

Unlike in the paper there is no discriminator: at the small sizes trained here the features keep reconstructions sharp.
Rombach et al., arXiv 2112.10752, sec. 3.1 and appendix G.
"""

import jax
import jax.numpy as jnp

from nami_jax.config.autoencoder_run import LossConfig
from nami_jax.models.autoencoder_kl import AutoencoderKL
from nami_jax.models.vgg import Vgg
from nami_jax.training.autoencoder.perceptual import perceptual_distance


def kl_divergence(mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """Returns how far normal distributions are from the standard one, element by element, in nats.

    KL(N(m, s²) || N(0, 1)) = (m² + s² - 1 - ln s²) / 2. Kingma and Welling, arXiv 1312.6114, appendix B.

    Args:
        mean: of any shape.
        logvar: logarithm of the variance, same shape.
    """
    return 0.5 * (mean**2 + jnp.exp(logvar) - 1.0 - logvar)


def psnr(images: jax.typing.ArrayLike, others: jax.typing.ArrayLike) -> jax.Array:
    """Returns the peak signal-to-noise ratio of each pair of images (B, H, W, 3): (B,) dB, 106 at most.

    Their range is [-1, 1]; what lies outside is cut first, as it is for display.
    """
    error = ((jnp.clip(images, -1, 1) - jnp.clip(others, -1, 1)) ** 2).mean((1, 2, 3))
    return 10 * jnp.log10(4.0 / jnp.maximum(error, 1e-10))


def autoencoder_loss(
    model: AutoencoderKL, vgg: Vgg | None, images: jax.Array, noise: jax.Array, cfg: LossConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Encodes, draws latents, decodes and compares.

    All parts are means, so that their weights hold for every size. Stable Diffusion's autoencoders were trained on
    sums, with the KL weighted by 1e-6: for 3 N pixels and C n latents that is 1e-6 C n / (3 N) here.

    Args:
        model: the network.
        vgg: frozen, for the perceptual part; None leaves that out.
        images: (B, H, W, 3) float32 in [-1, 1].
        noise: standard normal, (B, h, w, C): it makes latents of the posterior's mean and variance.
        cfg: the weights.

    Returns:
        The loss () and its parts before weighting: `pixel`, `perceptual`, `kl` ().
    """
    mean, logvar = model.encode(images)
    decoded = model.decode(mean + jnp.exp(0.5 * logvar) * noise)
    parts = {"pixel": jnp.abs(decoded - images).mean(), "kl": kl_divergence(mean, logvar).mean()}
    loss = cfg.pixel * parts["pixel"] + cfg.kl * parts["kl"]
    if vgg is not None:
        parts["perceptual"] = perceptual_distance(vgg, images, decoded).mean()
        loss += cfg.perceptual * parts["perceptual"]
    return loss, parts
