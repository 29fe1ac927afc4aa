import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nami_jax.sampling.parts import in_compute_type
from tests.models.test_nami import MODEL, awake, inputs, velocity_of


def test_a_network_held_in_its_compute_type_predicts_the_same_bits_in_half_the_memory():
    cfg = dataclasses.replace(MODEL, dtype="bfloat16")
    expected = velocity_of(awake(cfg), *inputs(3), stage=3)
    model = awake(cfg)
    before = jax.tree.leaves(nnx.state(model))
    held = in_compute_type(model)
    np.testing.assert_array_equal(velocity_of(held, *inputs(3), stage=3), expected)
    types = {jax.tree_util.keystr(path): x.dtype for path, x in jax.tree_util.tree_leaves_with_path(nnx.state(held))}
    assert {dtype for name, dtype in types.items() if "norm" not in name} == {jnp.dtype("bfloat16")}
    assert {dtype for name, dtype in types.items() if "norm" in name} == {jnp.dtype("float32")}
    assert sum(x.is_deleted() for x in before) == sum(dtype == jnp.bfloat16 for dtype in types.values())


def test_a_network_that_computes_in_float32_is_left_as_it_is():
    model = awake()
    before = jax.tree.leaves(nnx.state(model))
    after = jax.tree.leaves(nnx.state(in_compute_type(model)))
    assert all(
        a is b or a.unsafe_buffer_pointer() == b.unsafe_buffer_pointer() for a, b in zip(before, after, strict=True)
    )
