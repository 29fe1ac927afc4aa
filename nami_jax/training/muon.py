"""Muon's direction for the matrices of the blocks, beside Adam's for all other parameters.

Muon moves a matrix by its momentum with all singular values brought near 1, so that no direction of a layer's inputs
lags behind. Sources: Jordan et al., Muon, 2024; Moonlight, arXiv 2502.16982, for the length of a step.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from nami_jax.config import TrainConfig

BLOCKS = ("double_blocks", "single_blocks")
# Root mean square of a step's entries before the learning rate. Adam's is 0.2 to 0.4 in practice, so that its rate
# and its weight decay do for Muon too (arXiv 2502.16982, sec. 2.2).
RMS = 0.2
NEWTON_SCHULZ_STEPS = 5
MATRICES = MuonDimensionNumbers(reduction_axis=1, output_axis=3)  # of the axes that `as_matrices` gives


def scale_by_muon_or_adam(cfg: TrainConfig) -> optax.GradientTransformation:
    """Returns the direction of a step: Muon's for the blocks' kernels, Adam's for everything else.

    Everything else is biases, norms, the embeddings of patches, texts and times, the last modulation and the output.
    Muon keeps one moment of its parameters, Adam two of the others; moments have their parameters' shapes.
    """
    dtype = jnp.dtype(cfg.first_moment_dtype)
    return optax.partition(
        {
            "muon": _scale_by_muon(cfg.muon_momentum, dtype),
            "adam": optax.scale_by_adam(b1=cfg.adam_b1, b2=cfg.adam_b2, mu_dtype=dtype),
        },
        lambda params: jax.tree_util.tree_map_with_path(lambda path, _: "muon" if _is_matrix(path) else "adam", params),
    )


def as_matrices(path: tuple[Any, ...], kernel: jax.Array) -> jax.Array:
    """Returns a stack of blocks' kernel as the matrices that it consists of, (layers, inputs, matrices, outputs).

    Queries, keys and values are three, and each vector of a modulation has its own. A single block's `proj`, which
    takes attention's result and the MLP's hidden layer at once, is one.

    Args:
        path: of the parameter, as `jax.tree_util` gives it.
        kernel: (layers, inputs, outputs), or (layers, D, 3, N, H) of queries, keys and values.
    """
    layers, inputs, *outputs = kernel.shape
    count = 1
    if len(outputs) == 3:
        count = outputs[0]
    elif "modulation" in _names(path):
        count = outputs[0] // inputs
    return kernel.reshape(layers, inputs, count, -1)


def muon_flops(params: Any) -> int:
    """Counts the FLOPs of Muon's Newton-Schulz iterations in one step, on the parameters or their shapes.

    Each of the five takes a matrix of m x n, m <= n, through one product m x n x m, one m x m x m and one m x m x n.
    """

    def count(path: tuple[Any, ...], kernel: Any) -> int:
        if not _is_matrix(path):
            return 0
        layers, inputs, matrices, outputs = jax.eval_shape(lambda x: as_matrices(path, x), kernel).shape
        m, n = sorted((inputs, outputs))
        return layers * matrices * NEWTON_SCHULZ_STEPS * (4 * m * m * n + 2 * m**3)

    return sum(jax.tree.leaves(jax.tree_util.tree_map_with_path(count, params)))


def _scale_by_muon(momentum: float, dtype: Any) -> optax.GradientTransformation:
    def split(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(as_matrices, tree)

    def scaled(update: jax.Array, like: jax.Array) -> jax.Array:
        # A matrix whose singular values are 1 has entries of root mean square 1 / sqrt(its longer side).
        longer = max(update.shape[1], update.shape[3])
        return (RMS * math.sqrt(longer) * update).reshape(like.shape)

    def joined(tree: Any, like: Any) -> Any:
        return jax.tree.map(lambda x, one: x.reshape(one.shape), tree, like)

    muon = scale_by_muon(
        beta=momentum,
        ns_steps=NEWTON_SCHULZ_STEPS,
        mu_dtype=dtype,
        weight_dimension_numbers=lambda updates: jax.tree.map(lambda _: MATRICES, updates),
    )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        new: Any
        found, new = muon.update(split(updates), state._replace(mu=split(state.mu)))
        return jax.tree.map(scaled, found, updates), new._replace(mu=joined(new.mu, updates))

    # The moments are kept in the shapes of the parameters, by which the state is sharded.
    return optax.GradientTransformation(muon.init, update)


def _is_matrix(path: tuple[Any, ...]) -> bool:
    names = _names(path)
    return names[0] in BLOCKS and names[-1] == "kernel"


def _names(path: tuple[Any, ...]) -> list[str]:
    return [part.key for part in path]
