import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax.config.autoencoder_run import LossConfig
from nami_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from nami_jax.training.autoencoder.reconstruction_loss import autoencoder_loss, kl_divergence, psnr


class OnePixel(nnx.Module):
    """Stands for a network whose every output is known: the latents' mean is the image's first channel."""

    def encode(self, images):
        mean = images[..., :1]
        return mean, jnp.full_like(mean, np.log(0.25))

    def decode(self, latents):
        return jnp.repeat(latents, 3, axis=-1)


def test_kl_of_known_gaussians():
    assert float(kl_divergence(jnp.array(0.0), jnp.array(0.0))) == 0.0
    # (m² + s² - 1 - ln s²) / 2 by hand.
    assert float(kl_divergence(jnp.array(3.0), jnp.array(0.0))) == pytest.approx(4.5)
    assert float(kl_divergence(jnp.array(0.0), jnp.log(4.0))) == pytest.approx((4 - 1 - np.log(4)) / 2)


def test_kl_is_the_expected_log_ratio_of_densities():
    mean, std = 0.7, 0.4
    points = np.random.default_rng(0).normal(mean, std, 200_000)
    log_ratio = -0.5 * ((points - mean) / std) ** 2 - np.log(std) + 0.5 * points**2
    # The mean of 200,000 draws is off by about 0.7 / sqrt(200,000) = 0.0016.
    found = float(kl_divergence(jnp.array(mean), jnp.array(2 * np.log(std))))
    assert found == pytest.approx(log_ratio.mean(), abs=0.01)


def test_psnr_by_hand_and_clipped():
    images = np.zeros((2, 4, 4, 3), np.float32)
    others = np.stack([np.full((4, 4, 3), 0.2), np.full((4, 4, 3), 5.0)]).astype(np.float32)
    # 10 log10(2² / 0.2²) = 20 dB; 5 is shown as 1: 10 log10(2² / 1) = 6.02 dB.
    np.testing.assert_allclose(psnr(images, others), [20.0, 6.0206], rtol=1e-5)
    assert float(psnr(images, images)[0]) == pytest.approx(106.02, abs=0.01)


def test_loss_is_the_weighted_sum_of_its_parts():
    images = jnp.broadcast_to(jnp.array([0.5, 0.0, -0.5]), (2, 4, 4, 3))
    noise = jnp.full((2, 4, 4, 1), 0.2)
    loss, parts = autoencoder_loss(OnePixel(), None, images, noise, LossConfig(2.0, 0.0, 1, 0.01))  # pyright: ignore[reportArgumentType]
    # Latents are 0.5 + 0.5 · 0.2 = 0.6, so the channels are off by 0.1, 0.6 and 1.1.
    assert float(parts["pixel"]) == pytest.approx(0.6)
    assert float(parts["kl"]) == pytest.approx((0.25 + 0.25 - 1 - np.log(0.25)) / 2)
    assert float(loss) == pytest.approx(2 * 0.6 + 0.01 * float(parts["kl"]))
    assert "perceptual" not in parts


def test_weights_hold_for_every_size():
    """All parts are means: four copies of an image side by side lose what one does."""
    one = jnp.broadcast_to(jnp.array([0.5, 0.0, -0.5]), (1, 4, 4, 3))
    four = jnp.tile(one, (1, 2, 2, 1))
    weights = LossConfig(1.0, 0.0, 1, 0.1)
    losses = [
        autoencoder_loss(OnePixel(), None, x, jnp.zeros((1, *x.shape[1:3], 1)), weights)[0]  # pyright: ignore[reportArgumentType]
        for x in (one, four)
    ]
    assert float(losses[0]) == pytest.approx(float(losses[1]))


def test_loss_of_the_real_network_draws_with_the_given_noise():
    cfg = AutoencoderKLConfig((8, 8), 4, norm_num_groups=4, use_quant_conv=False, use_post_quant_conv=False)
    model = AutoencoderKL(cfg, rngs=nnx.Rngs(0))
    images = jnp.zeros((1, 8, 8, 3))
    noise = jnp.ones((1, 4, 4, 4))
    weights = LossConfig(1.0, 0.0, 1, 0.0)
    mean, logvar = model.encode(images)
    expected = jnp.abs(model.decode(mean + jnp.exp(logvar / 2) * noise) - images).mean()
    assert float(autoencoder_loss(model, None, images, noise, weights)[0]) == pytest.approx(float(expected), rel=1e-5)
