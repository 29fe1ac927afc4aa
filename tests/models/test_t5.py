import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from nami_jax.models.t5 import T5Config, T5Encoder, load_t5, relative_buckets
from nami_jax.weights import WeightsError
from tests.support.paths import GOLDEN

VECTORS = GOLDEN / "t5.safetensors"
MT5_XXL = {
    "model_type": "mt5",
    "vocab_size": 250112,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "relative_attention_num_buckets": 32,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(VECTORS)


@pytest.fixture(scope="module")
def weights(golden) -> dict[str, np.ndarray]:
    return {key.removeprefix("weights."): tensor for key, tensor in golden.items() if key.startswith("weights.")}


@pytest.fixture(scope="module")
def fields() -> dict:
    with safetensors.safe_open(VECTORS, "np") as file:
        return json.loads(file.metadata()["config"])


@pytest.fixture(scope="module")
def cfg(fields) -> T5Config:
    return T5Config.from_hf(fields)


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
        vocab_size=8, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2, relative_attention_num_buckets=16,
        relative_attention_max_distance=64,
    )  # fmt: skip
    # 8 buckets a side: 0 1 2 3, then ranges that grow by 2 = (64 / 4)^(1/4): 4-7, 8-15, 16-31, 32 and all beyond.
    side = [0, 1, 2, 3, *[4] * 4, *[5] * 8, *[6] * 16, *[7] * 40]
    table = relative_buckets(cfg, len(side))
    np.testing.assert_array_equal(table[:, 0], side)  # the key is at or before the query
    np.testing.assert_array_equal(table[0, 1:], [8 + bucket for bucket in side[1:]])  # after it
    for diagonal in range(-5, 6):
        assert len(set(np.diagonal(table, diagonal))) == 1, "only the distance counts"


def test_full_t5_is_loaded_without_its_decoder(cfg, weights, t5):
    extra = {
        "decoder.block.0.layer.0.SelfAttention.q.weight": np.zeros((30, 24), np.float32),
        "decoder.embed_tokens.weight": weights["shared.weight"],
        "encoder.embed_tokens.weight": weights["shared.weight"],
        "lm_head.weight": np.zeros((64, 24), np.float32),
    }
    whole = load_t5(cfg, weights | extra)
    same = jax.tree.map(np.array_equal, nnx.to_pure_dict(nnx.state(t5)), nnx.to_pure_dict(nnx.state(whole)))
    assert jax.tree.all(same)


def test_every_mismatched_key_is_listed_at_once(cfg, weights):
    broken = dict(weights)
    del broken["shared.weight"]
    del broken["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    broken["encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"] = np.zeros((12, 3), np.float32)
    broken["encoder.block.2.layer.1.DenseReluDense.wo.weight"] = np.zeros((40, 24), np.float32)
    with pytest.raises(WeightsError, match="weights do not fit the network") as error:
        load_t5(cfg, broken)
    assert str(error.value).splitlines()[1:] == [
        "  misshapen   encoder.block.2.layer.1.DenseReluDense.wo.weight: (40, 24), the network has (24, 40)",
        "  missing     encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight (12, 3)",
        "  missing     shared.weight (64, 24)",
        "  unexpected  encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight (12, 3)",
    ]


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
    cfg = T5Config.from_hf(MT5_XXL)
    t5 = nnx.eval_shape(lambda: T5Encoder(cfg, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    tokens = jax.ShapeDtypeStruct((2, 256), jnp.int32)
    states = nnx.eval_shape(lambda model, *inputs: model(*inputs), t5, tokens)
    assert (states.shape, states.dtype) == ((2, 256, 4096), jnp.float32)
    layer = 4 * 4096 * 64 * 64 + 3 * 4096 * 10240 + 2 * 4096
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(t5))) == 250112 * 4096 + 32 * 64 + 24 * layer + 4096


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"feed_forward_proj": "relu"}, "feed_forward_proj = 'relu': only 'gated-gelu'"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj = 'gated-silu'"),
        ({"model_type": "umt5"}, "model_type = 'umt5': only 't5' and 'mt5'"),
        ({"d_model": None}, "d_model = None: must be an integer above 0"),
        ({"num_heads": 3.0}, "num_heads = 3.0: must be an integer above 0"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon = None: must be a number above 0"),
        ({"relative_attention_num_buckets": 7}, "relative_attention_num_buckets = 7"),
        ({"relative_attention_max_distance": 3}, "relative_attention_max_distance = 3: need"),
    ],
)
def test_config_of_another_variant_is_refused(fields, changed, message):
    with pytest.raises(WeightsError, match=message):
        T5Config.from_hf(fields | changed)


def test_first_t5_whose_config_names_no_projection_is_refused(fields):
    with pytest.raises(WeightsError, match=r"Use T5 version 1\.1 or mT5"):
        T5Config.from_hf({name: value for name, value in fields.items() if name != "feed_forward_proj"})


def test_config_names_every_missing_size():
    with pytest.raises(WeightsError, match="vocab_size, d_kv, d_ff, num_layers, num_heads: not in the T5 config"):
        T5Config.from_hf({"d_model": 24, "feed_forward_proj": "gated-gelu"})
