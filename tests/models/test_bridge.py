import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax.config import ConfigError
from nami_jax.models.bridge import Bridge, ConvBridge, make_bridge
from tests.support.sizes import MODEL


@pytest.mark.parametrize("bridge", [Bridge([(2, 2, 3), (4, 4, 3)]), ConvBridge(3, 2, rngs=nnx.Rngs(0))])
def test_a_new_bridge_is_the_identity(bridge):
    x = jnp.arange(24.0).reshape(2, 2, 2, 3)
    np.testing.assert_array_equal(bridge(x, stage=2), x)


def test_bridge_scales_and_shifts_by_stage():
    bridge = Bridge([(2, 2, 1), (4, 4, 1)])
    bridge.scales[...] = jnp.array([0.6, 0.75])
    bridge.shifts[1][...] = jnp.full((4, 4, 1), 0.5)
    np.testing.assert_allclose(bridge(jnp.full((2, 4, 4, 1), 2.0), stage=3), np.full((2, 4, 4, 1), 2.0))
    np.testing.assert_allclose(bridge(jnp.full((2, 2, 2, 1), 2.0), stage=2), np.full((2, 2, 2, 1), 1.2), rtol=1e-6)


def test_released_form_has_the_shapes_of_the_later_stages_and_takes_no_other_size():
    bridge = make_bridge("full", MODEL, 16, 24, nnx.Rngs(0))
    assert isinstance(bridge, Bridge)
    assert [shift.shape for shift in bridge.shifts] == [(8, 12, 3), (16, 24, 3)]
    bridge.require_size(16, 24)
    with pytest.raises(ConfigError, match=r"latents of 16x24 only, not 16x16.*'renoise'.*size-free"):
        bridge.require_size(16, 16)


def test_size_free_form_takes_any_size():
    bridge = make_bridge("conv", MODEL, 16, 16, nnx.Rngs(0))
    bridge.require_size(8, 40)
    assert bridge(jnp.ones((1, 8, 40, 3)), stage=3).shape == (1, 8, 40, 3)
