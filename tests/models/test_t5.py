import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax.config import ConfigError
from nami_jax.models.t5 import T5Config, T5Encoder, relative_buckets
from nami_jax.weights.t5_keys import load_t5, read_t5_config
from tests.support.golden_networks import golden_t5


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return golden_t5().vectors


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return golden_t5().weights


@pytest.fixture(scope="module")
def cfg() -> T5Config:
    return read_t5_config(golden_t5().config)


@pytest.fixture(scope="module")
def t5(cfg, weights) -> T5Encoder:
    return load_t5(cfg, weights)


@nnx.jit
def run(t5: T5Encoder, token_ids: jax.Array, mask: jax.Array | None) -> jax.Array:
    return t5(token_ids, mask)


def relative_error(found: jax.Array, exact: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(found, np.float32) - exact) / np.linalg.norm(exact))


# Both sides compute in float32, in another order of sums: 1e-5 is 80 roundings, and what is measured is some 5e-7.
def test_states_without_a_mask_agree_with_transformers(t5, golden):
    assert relative_error(run(t5, golden["token_ids"], None), golden["states_unmasked"]) <= 1e-5


def test_states_with_a_mask_agree_with_transformers(t5, golden):
    assert relative_error(run(t5, golden["token_ids"], golden["mask"]), golden["states_masked"]) <= 1e-5


def test_masked_tokens_do_not_reach_the_others(t5, golden):
    token_ids, mask = golden["token_ids"], golden["mask"]
    other_padding = np.where(mask, token_ids, (token_ids + 1) % t5.cfg.vocab_size)
    states, others = run(t5, token_ids, mask), run(t5, other_padding, mask)
    real = mask.astype(bool)
    np.testing.assert_array_equal(states[real], others[real])
    assert np.abs(states[~real] - others[~real]).max() > 0.1


def test_bfloat16_parameters_and_computation_give_float32_states_near_the_exact_ones(cfg, weights, golden):
    t5 = load_t5(cfg, weights, jnp.bfloat16, param_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(t5))} == {jnp.dtype(jnp.bfloat16)}
    states = run(t5, golden["token_ids"], golden["mask"])
    assert states.dtype == jnp.float32
    # bfloat16 rounds by 1/512 at most, once in each of a dozen products and in the weights.
    assert 1e-4 < relative_error(states, golden["states_masked"]) <= 2e-2


def test_distances_fall_into_the_buckets_worked_by_hand():
    cfg = T5Config(
        vocab_size=8,
        d_model=4,
        d_kv=2,
        d_ff=4,
        num_layers=1,
        num_heads=2,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=64,
    )
    # 8 buckets a side: 0 1 2 3, then ranges that grow by 2 = (64 / 4)^(1/4): 4-7, 8-15, 16-31, 32 and all beyond.
    side = [0, 1, 2, 3, *[4] * 4, *[5] * 8, *[6] * 16, *[7] * 40]
    table = relative_buckets(cfg, len(side))
    np.testing.assert_array_equal(table[:, 0], side)  # the key is at or before the query
    np.testing.assert_array_equal(table[0, 1:], [8 + bucket for bucket in side[1:]])  # after it
    for diagonal in range(-5, 6):
        assert len(set(np.diagonal(table, diagonal))) == 1, "only the distance counts"


def test_parameters_are_loaded_sharded_and_compute_the_same(cfg, weights, golden):
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    columns = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def shardings(abstract):
        return jax.tree.map(lambda x: columns if x.ndim == 2 and x.shape[1] % 2 == 0 else whole, abstract)

    t5 = load_t5(cfg, weights, shardings=shardings)
    assert t5.layers[0].mlp_in.kernel[...].addressable_shards[0].data.shape == (24, 20)
    assert t5.word_embedding.embedding[...].addressable_shards[0].data.shape == (64, 12)
    states = run(t5, golden["token_ids"], golden["mask"])
    assert relative_error(states, golden["states_masked"]) <= 1e-5


def test_full_size_mt5_xxl_encoder_has_its_published_shape():
    cfg = T5Config(vocab_size=250112, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
    t5 = nnx.eval_shape(lambda: T5Encoder(cfg, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    tokens = jax.ShapeDtypeStruct((2, 256), jnp.int32)
    states = nnx.eval_shape(lambda model, *inputs: model(*inputs), t5, tokens)
    assert (states.shape, states.dtype) == ((2, 256, 4096), jnp.float32)
    layer = 4 * 4096 * 64 * 64 + 3 * 4096 * 10240 + 2 * 4096
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(t5))) == 250112 * 4096 + 32 * 64 + 24 * layer + 4096


@pytest.mark.parametrize("changed", [{"num_buckets": 7}, {"num_buckets": 2}, {"max_distance": 3}])
def test_buckets_that_cannot_be_are_refused(cfg, changed):
    with pytest.raises(ConfigError, match=r"relative_attention_max_distance = .*: need an even number"):
        dataclasses.replace(cfg, **{f"relative_attention_{name}": value for name, value in changed.items()})
