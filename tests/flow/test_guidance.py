import jax.numpy as jnp
import numpy as np

from nami_jax.flow.guidance import double, guide


def test_guidance_leads_from_the_unconditional_through_the_conditional_velocity():
    conditional, unconditional = jnp.array([[3.0], [5.0]]), jnp.array([[1.0], [6.0]])
    velocity = jnp.concatenate([conditional, unconditional])
    np.testing.assert_array_equal(guide(velocity, 3.0), [[7.0], [3.0]])
    np.testing.assert_array_equal(guide(velocity, 1.0), conditional)
    np.testing.assert_array_equal(guide(velocity, 0.0), unconditional)


def test_double_repeats_the_whole_batch():
    np.testing.assert_array_equal(double(jnp.array([1, 2])), [1, 2, 1, 2])
