"""The random keys of a network's first parameters, apart from all that its training draws."""

import jax
from flax import nnx

PARAMETERS = 2**32 - 1  # no step, batch or stage has this number


def parameter_rngs(key: jax.Array) -> nnx.Rngs:
    """Returns what a network is built with in a run whose key is `key`.

    `nnx.Rngs(key)` would fold 0, 1, 2, ... into the run's own key, and so would the training steps: the first layers
    would be drawn by the keys of the first steps.
    """
    return nnx.Rngs(jax.random.fold_in(key, PARAMETERS))
