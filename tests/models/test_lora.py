import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from nami_jax.models import lora
from nami_jax.models.nami import Nami, abstract_model
from nami_jax.parallel.sharding import make_mesh, shard_batch
from nami_jax.training.state import sampling_weights
from nami_jax.training.step import init_state, make_train_step
from tests.support.sizes import MODEL, make_config
from tests.training.test_step import NULL, batches

ADAPTED = dataclasses.replace(MODEL, lora_rank=2)


def awake(cfg):
    """Parameters of a network none of which are 0, so that each of them shows in the output."""
    params = nnx.to_pure_dict(nnx.state(Nami(cfg, rngs=nnx.Rngs(0))))
    keys = iter(jax.random.split(jax.random.key(1), 200))
    return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(next(keys), p.shape), params)


@jax.jit
def forward(adapted, plain):
    inputs = (jnp.ones((2, 4, 4, 3)), jnp.full(2, 0.5), jnp.ones((2, 5, 24)), jnp.ones((2, 12)))
    return tuple(
        nnx.merge(abstract_model(cfg)[0], params)(*inputs, stage=3)
        for cfg, params in ((ADAPTED, adapted), (MODEL, plain))
    )


def test_merged_network_computes_what_the_adapted_one_does():
    adapted = awake(ADAPTED)
    found, merged = forward(adapted, lora.merge(adapted))
    np.testing.assert_allclose(found, merged, rtol=1e-4, atol=1e-5)
    _, without = forward(adapted, lora.split(adapted)[1])
    assert not np.allclose(found, without, rtol=1e-2)


def test_a_new_pair_changes_nothing():
    fresh = nnx.to_pure_dict(nnx.state(Nami(ADAPTED, rngs=nnx.Rngs(0))))
    low_rank, _ = lora.split(fresh)
    base = awake(MODEL)
    found, without = forward(lora.join(low_rank, base), base)
    np.testing.assert_allclose(found, without, atol=1e-6)  # XLA fuses, and rounds, the two otherwise


def test_split_and_join_lose_nothing():
    params = awake(ADAPTED)
    low_rank, others = lora.split(params)
    assert {path[-1] for path in flatten_dict(low_rank)} == {"lora_a", "lora_b"}
    assert flatten_dict(lora.join(low_rank, others)).keys() == flatten_dict(params).keys()


@pytest.fixture(scope="module")
def trained():
    cfg = make_config(
        model={"lora_rank": 2}, train={"init_from": "somewhere", "stage_batches": ((8, 8, 8),), "warmup_steps": 0}
    )
    mesh, base = make_mesh(devices=jax.devices()[:1]), awake(MODEL)
    kept = jax.tree.map(np.asarray, base)
    state = init_state(cfg, mesh, base)
    before = jax.tree.map(np.asarray, state.params)
    state, _ = make_train_step(cfg, mesh)(state, shard_batch(batches(0, (8, 8, 8)), mesh), NULL)
    return kept, before, state


def test_training_moves_the_pairs_and_leaves_the_rest_alone(trained):
    base, before, state = trained
    for path, leaf in flatten_dict(state.frozen).items():
        np.testing.assert_array_equal(leaf, flatten_dict(base)[path], err_msg=str(path))
    same: dict[tuple, Any] = flatten_dict(jax.tree.map(np.array_equal, state.params, before))
    assert not any(kept for path, kept in same.items() if path[-1] == "lora_b")


def test_optimizer_and_ema_hold_the_pairs_alone(trained):
    _, _, state = trained
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.ema)) == count
    # Two moments, and the counters of the schedule and of Adam.
    assert 2 * count <= sum(leaf.size for leaf in jax.tree.leaves(state.opt)) <= 2 * count + 4
    assert flatten_dict(sampling_weights(state)).keys() == flatten_dict(awake(ADAPTED)).keys()


def test_kernels_of_both_kinds_of_layer_are_found():
    pairs = {"lora_a": jnp.ones((2, 1)), "lora_b": jnp.ones((1, 6))}
    params = {
        "qkv": {"linear": {"kernel": jnp.zeros((2, 3, 1, 2))}, "lora": pairs},
        "mlp_in": {"kernel": jnp.zeros((2, 6)), "lora": pairs},
    }
    merged: dict[tuple, Any] = flatten_dict(lora.merge(params))
    assert {path: leaf.shape for path, leaf in merged.items()} == {
        ("qkv", "linear", "kernel"): (2, 3, 1, 2),
        ("mlp_in", "kernel"): (2, 6),
    }
    assert all(np.array_equal(leaf, np.ones(leaf.shape)) for leaf in merged.values())
    assert unflatten_dict(merged).keys() == params.keys()
