"""Fingerprints that verify that a checkpoint reads back exactly as it was saved, bit for bit.

They are computed on the devices and stored in the checkpoint: sums modulo 2^32, exact in any order, so they do not
depend on how arrays are sharded. They guard against damage, not against malice.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from nami_jax.parallel.sharding import path_name

GOLDEN = 0x9E3779B1  # 2^32 over the golden ratio: spreads neighbouring positions


def fingerprint_json(value: Any) -> str:
    """Returns a sha256 of a value that JSON can hold; tuples count as the lists that are read back."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def fingerprint_arrays(arrays: Any) -> dict[str, int]:
    """Returns a number below 2^32 for every array of a pytree, by its path, type and shape.

    A change of one element always changes the number of its array; of several changes, one in 2^32 goes unnoticed.
    Every process that has a part of the arrays must call this.

    Args:
        arrays: elements of at most 4 bytes, or random keys; on any devices.
    """
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(arrays), strict=True)
    # Replicated, so that each process can read it.
    meshes = [leaf.sharding.mesh for leaf in leaves if isinstance(leaf.sharding, NamedSharding)]
    sums = np.asarray(_summing(NamedSharding(meshes[0], PartitionSpec()) if meshes else None)(leaves))
    names = [f"{path_name(path)} {leaf.dtype} {leaf.shape}" for path, leaf in zip(paths, leaves, strict=True)]
    return dict(zip(names, sums.tolist(), strict=True))


@functools.cache
def _summing(sharding: NamedSharding | None) -> Callable[[Any], jax.Array]:
    return jax.jit(lambda leaves: jnp.stack([_sum(leaf) for leaf in leaves]), out_shardings=sharding)


def _sum(array: jax.Array) -> jax.Array:
    """Sums the mixed elements of an array of any shape to () uint32."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    assert array.dtype.itemsize <= 4
    words = jax.lax.bitcast_convert_type(array, f"uint{8 * array.dtype.itemsize}").astype(jnp.uint32)
    return jnp.sum(_mix(words ^ _positions(array.shape)), dtype=jnp.uint32)


def _positions(shape: tuple[int, ...]) -> jax.Array:
    """Returns (shape) uint32 numbers of the elements, each far from its neighbours'."""
    # Axis by axis: flattening would gather a sharded array.
    position, stride = jnp.zeros(shape, jnp.uint32), GOLDEN
    for axis in reversed(range(len(shape))):
        position += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return position


def _mix(words: jax.Array) -> jax.Array:
    """Scrambles uint32 words one to one, so that sums of them tell even zeros and ones in many places apart.

    Source: the finaliser of MurmurHash3 (Austin Appleby, public domain).
    """
    words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
    return words ^ (words >> 16)
