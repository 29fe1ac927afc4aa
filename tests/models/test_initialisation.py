import jax
import numpy as np
from flax import nnx

from nami_jax.models.initialisation import PARAMETERS, parameter_rngs
from nami_jax.parallel.sharding import make_mesh
from nami_jax.training.step import init_state
from tests.support.sizes import make_config


def numbers(key) -> tuple[int, ...]:
    return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def test_no_layer_is_drawn_by_the_key_of_a_step():
    key = jax.random.key(0, impl="rbg")
    steps = {numbers(jax.random.fold_in(key, step)) for step in range(300)}
    layers, shared = parameter_rngs(key), nnx.Rngs(key)
    assert steps.isdisjoint({numbers(layers.params()) for _ in range(300)})
    assert numbers(shared.params()) in steps  # the key that is not to be used
    assert PARAMETERS > 10**9  # more than any number of steps


def test_a_run_keeps_its_key_for_the_steps_and_draws_its_parameters_by_another():
    cfg = make_config()
    key, state = jax.random.key(cfg.train.seed, impl="rbg"), init_state(cfg, make_mesh(devices=jax.devices()[:1]))
    assert numbers(state.key) == numbers(key)
    kernel = state.params["image_in"]["kernel"]
    steps = [jax.random.truncated_normal(jax.random.fold_in(key, i), -2, 2, kernel.shape) for i in range(50)]
    assert max(abs(np.corrcoef(np.ravel(kernel), np.ravel(step))[0, 1]) for step in steps) < 0.5
