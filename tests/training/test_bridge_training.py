import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax.data.examples import Example
from nami_jax.flow.resize import upsample
from nami_jax.models.bridge import bridge_structure
from nami_jax.parallel.sharding import make_mesh
from nami_jax.training.bridge_training import train_bridge
from tests.support.sizes import make_config


class Noise:
    """Sixty-four white latents of 16 x 16 without any mean, as a data set."""

    num_corrupt = 0

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return np.random.default_rng(index).normal(size=(16, 16, 3)).astype(np.float32)

    def example(self, sample, rng):
        return Example(sample, "", np.zeros((1, 1), np.float32), np.zeros(1, np.float32))


def trained(kind: str, steps: int, rate: float, share: float = 0.0):
    cfg = make_config(
        bridge={"kind": kind, "steps": steps, "learning_rate": rate, "noise": share},
        train={"stage_batches": ((8, 16, 16),)}, sample={"transition": "bridge"},
    )  # fmt: skip
    params = train_bridge(cfg, make_mesh(devices=jax.devices()[:1]), [Noise()])
    structure = bridge_structure(cfg)
    assert structure is not None
    return nnx.merge(structure, params)


@pytest.fixture(scope="module")
def full():
    return trained("full", 150, 0.02)


def test_training_finds_the_least_squares_solution(full):
    # 1 / (1 + e) for e = 2/3 and 1/3: the coefficient of image and noise alike, so also of any mixture of them.
    np.testing.assert_allclose(full.scales[...], [0.6, 0.75], atol=0.02)
    # B = 0, up to what 150 batches of 16 leave of their own mean.
    assert all(float(jnp.abs(shift[...]).mean()) < 0.05 for shift in full.shifts)


def test_a_share_of_noise_leaves_the_solution_as_it_is(full):
    np.testing.assert_allclose(trained("full", 150, 0.02, share=0.5).scales[...], full.scales[...], atol=0.02)


def test_the_same_run_trains_the_same_bridge(full):
    again = trained("full", 150, 0.02)
    np.testing.assert_array_equal(again.scales[...], full.scales[...])


def test_the_size_free_form_does_as_well_on_white_latents():
    bridge = trained("conv", 150, 0.02)
    x = upsample(jnp.stack([Noise()[i] for i in range(8)])[:, :4, :4])
    assert float(jnp.mean(jnp.square(bridge(x, stage=2) - 0.6 * x))) < 0.02 * float(jnp.mean(jnp.square(0.6 * x)))
