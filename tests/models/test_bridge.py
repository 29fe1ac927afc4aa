import jax.numpy as jnp
import numpy as np

from nami_jax.models.bridge import Bridge


def test_a_new_bridge_is_the_identity():
    x = jnp.arange(24.0).reshape(2, 2, 2, 3)
    np.testing.assert_array_equal(Bridge([(2, 2, 3), (4, 4, 3)])(x, stage=2), x)


def test_bridge_scales_and_shifts_by_stage():
    bridge = Bridge([(2, 2, 1), (4, 4, 1)])
    bridge.scales[...] = jnp.array([0.6, 0.75])
    bridge.shifts[1][...] = jnp.full((4, 4, 1), 0.5)
    np.testing.assert_allclose(bridge(jnp.full((2, 4, 4, 1), 2.0), stage=3), np.full((2, 4, 4, 1), 2.0))
    np.testing.assert_allclose(bridge(jnp.full((2, 2, 2, 1), 2.0), stage=2), np.full((2, 2, 2, 1), 1.2), rtol=1e-6)
