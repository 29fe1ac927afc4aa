import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax.data.images import to_stage
from nami_jax.data.loader import StageBatch
from nami_jax.evaluation import noise_losses
from nami_jax.evaluation.noise_losses import TIMES, by_quarter, losses_by_noise
from nami_jax.flow.transition import Bridged, Renoise
from nami_jax.models.bridge import bridge_structure, new_bridge
from nami_jax.models.nami import Nami
from nami_jax.sampling.sampler import Networks, image_noise, make_sampler
from nami_jax.text.encoders import TextStates
from nami_jax.training.loss import StageDraws, stage_losses, start_after
from tests.support.sizes import make_config


@pytest.fixture(scope="module", params=[None, "conv"])
def measured(request):
    """Losses of a network of random weights, with and without a bridge, and what they were measured on."""
    bridge = {"kind": request.param}
    cfg = make_config(bridge=bridge, sample={"transition": "renoise" if request.param is None else "bridge"})
    model = Nami(cfg.model, rngs=nnx.Rngs(0))
    structure = bridge_structure(cfg)
    transition = Renoise() if structure is None else Bridged(nnx.merge(structure, new_bridge(cfg)))
    rng, count = np.random.default_rng(0), 3
    images = rng.uniform(-1, 1, (count, cfg.data.side, cfg.data.side, 3)).astype(np.float32)
    text = TextStates(
        rng.standard_normal((count, 4, cfg.model.text_dim), np.float32),
        rng.standard_normal((count, cfg.model.pooled_dim), np.float32),
    )
    sampler, networks = make_sampler(cfg.model), Networks(model, transition)
    return losses_by_noise(sampler, networks, images, text, 7), sampler, networks, images, text


def test_they_are_the_training_loss_without_dropout_at_fixed_times(measured):
    losses, sampler, networks, images, text = measured
    assert losses.shape == (3, len(sampler.stages), TIMES)
    for k, (before, stage) in enumerate(zip((None, *sampler.stages[:-1]), sampler.stages, strict=True)):
        latents = jnp.asarray(to_stage(images, stage.downscale))
        noise = image_noise(7, range(3), stage, (*latents.shape[1:3], 3))
        start = None
        if before is not None and isinstance(networks.transition, Bridged):
            start = start_after(networks.transition, before, latents, noise)
        for i in (0, TIMES - 1):
            draws = StageDraws(noise, jnp.full(3, (i + 0.5) / TIMES), jnp.zeros(3, bool))
            expected = stage_losses(networks.model, stage, StageBatch(latents, text), text, draws, start)
            np.testing.assert_allclose(losses[:, k, i], expected, rtol=1e-4)


def test_a_pictures_losses_do_not_depend_on_the_batch(measured, monkeypatch):
    losses, sampler, networks, images, text = measured
    monkeypatch.setattr(noise_losses, "BATCH", 2)
    np.testing.assert_allclose(losses_by_noise(sampler, networks, images, text, 7), losses, rtol=1e-4)
    assert not np.allclose(losses_by_noise(sampler, networks, images, text, 8), losses, rtol=1e-2)


def test_a_quarter_is_the_mean_of_its_times():
    found = by_quarter(np.arange(TIMES, dtype=np.float32)[None, None])
    np.testing.assert_array_equal(found, [[[0.5, 2.5, 4.5, 6.5]]])
