import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax.data.images import to_stage
from nami_jax.data.loader import StageBatch
from nami_jax.evaluation import noise_losses
from nami_jax.evaluation.noise_losses import TIMES, by_quarter, losses_by_noise
from nami_jax.flow.transition import Bridged, make_transition, start_after
from nami_jax.models.bridge import bridge_structure, new_bridge
from nami_jax.models.nami import Nami
from nami_jax.sampling.sampler import make_sampler
from nami_jax.sampling.stage_programs import Networks, image_noise
from nami_jax.text.encoders import TextStates
from nami_jax.training.loss import StageDraws, predict, squared_errors
from tests.support.sizes import make_config


@pytest.fixture(
    scope="module",
    params=[(None, 0.0, False), ("conv", 0.0, False), ("conv", 0.5, False), (None, 0.0, True), ("conv", 0.0, True)],
    ids=["renoise", "bridge", "bridge with noise", "own lower levels", "bridge and own lower levels"],
)
def measured(request):
    """Losses of a network of random weights, and what they were measured on."""
    kind, share, own_lower = request.param
    sample = {"transition": "renoise" if kind is None else "bridge"}
    cfg = make_config(bridge={"kind": kind, "noise": share}, sample=sample)
    model = Nami(cfg.model, rngs=nnx.Rngs(0))
    structure = bridge_structure(cfg)
    bridge = None if structure is None else nnx.merge(structure, new_bridge(cfg))
    networks = Networks(model, make_transition(bridge, share))
    rng, count, side = np.random.default_rng(0), 3, cfg.data.side

    def images(downscale: int) -> np.ndarray:
        return rng.uniform(-1, 1, (count, side // downscale, side // downscale, 3)).astype(np.float32)

    lower = [images(2**level) for level in range(1, cfg.model.num_stages)] if own_lower else []
    text = TextStates(
        rng.standard_normal((count, 4, cfg.model.text_dim), np.float32),
        rng.standard_normal((count, cfg.model.pooled_dim), np.float32),
    )
    return make_sampler(cfg.model), networks, images(1), text, lower


def test_they_are_the_training_loss_without_dropout_at_fixed_times(measured):
    sampler, networks, images, text, lower = measured
    losses = losses_by_noise(sampler, networks, images, text, 7, lower=lower)
    assert losses.shape == (3, len(sampler.stages), TIMES)
    for k, (before, stage) in enumerate(zip((None, *sampler.stages[:-1]), sampler.stages, strict=True)):
        levels = (
            [images, *lower][len(sampler.stages) - stage.number :] if lower else [to_stage(images, stage.downscale)]
        )
        latents, coarse = jnp.asarray(levels[0]), jnp.asarray(levels[1]) if lower and before else None
        height, width, channels = latents.shape[1:]
        noise = image_noise(7, range(3), stage, (height, width, channels))
        start = None
        if before is not None and isinstance(networks.transition, Bridged):
            start = start_after(networks.transition, before, latents, noise, coarse)
        for i in (0, TIMES - 1):
            draws = StageDraws(noise, jnp.full(3, (i + 0.5) / TIMES), jnp.zeros(3, bool))
            batch = StageBatch(latents, text, coarse)
            expected = squared_errors(*predict(networks.model, stage, batch, text, draws, start))
            np.testing.assert_allclose(losses[:, k, i], expected, rtol=1e-4)


def test_a_pictures_losses_do_not_depend_on_the_batch(measured, monkeypatch):
    sampler, networks, images, text, lower = measured
    losses = losses_by_noise(sampler, networks, images, text, 7, lower=lower)
    monkeypatch.setattr(noise_losses, "BATCH", 2)
    np.testing.assert_allclose(losses_by_noise(sampler, networks, images, text, 7, lower=lower), losses, rtol=1e-4)
    assert not np.allclose(losses_by_noise(sampler, networks, images, text, 8, lower=lower), losses, rtol=1e-2)


def test_a_quarter_is_the_mean_of_its_times():
    found = by_quarter(np.arange(TIMES, dtype=np.float32)[None, None])
    np.testing.assert_array_equal(found, [[[0.5, 2.5, 4.5, 6.5]]])
