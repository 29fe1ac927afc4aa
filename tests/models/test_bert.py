import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from nami_jax.models.bert import Bert, BertConfig, load_bert
from nami_jax.weights import WeightsError
from tests.support.paths import GOLDEN

VECTORS = GOLDEN / "bert.safetensors"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    tensors = safetensors.numpy.load_file(VECTORS)
    return {key.removeprefix("small."): tensor for key, tensor in tensors.items() if key.startswith("small.")}


@pytest.fixture(scope="module")
def weights(golden) -> dict[str, np.ndarray]:
    return {key.removeprefix("weights."): tensor for key, tensor in golden.items() if key.startswith("weights.")}


@pytest.fixture(scope="module")
def cfg() -> BertConfig:
    with safetensors.safe_open(VECTORS, "np") as file:
        return BertConfig.from_hf(json.loads(file.metadata()["small_config"]))


@pytest.fixture(scope="module")
def bert(cfg, weights) -> Bert:
    return load_bert(cfg, weights)


@nnx.jit
def run(bert: Bert, token_ids: jax.Array, mask: jax.Array) -> jax.Array:
    return bert(token_ids, mask)


def test_states_agree_with_transformers(bert, golden):
    states = run(bert, golden["token_ids"], golden["mask"])
    # Both sides compute in float32; 1e-5 of the largest state is about 80 roundings.
    assert np.abs(states - golden["states"]).max() <= 1e-5 * np.abs(golden["states"]).max()


def test_masked_tokens_do_not_reach_the_others(bert, golden):
    token_ids, mask = golden["token_ids"], golden["mask"]
    other_padding = np.where(mask, token_ids, (token_ids + 1) % bert.cfg.vocab_size)
    states, others = run(bert, token_ids, mask), run(bert, other_padding, mask)
    real = mask.astype(bool)
    np.testing.assert_array_equal(states[real], others[real])
    assert np.abs(states[~real] - others[~real]).max() > 0.1


def test_keys_may_carry_the_prefix_of_a_larger_model(cfg, bert, weights):
    prefixed = load_bert(cfg, {f"bert.{key}": tensor for key, tensor in weights.items()})
    same = jax.tree.map(np.array_equal, nnx.to_pure_dict(nnx.state(bert)), nnx.to_pure_dict(nnx.state(prefixed)))
    assert jax.tree.all(same)


def test_heads_and_position_buffer_are_not_needed_and_not_refused(cfg, weights):
    load_bert(cfg, {key: tensor for key, tensor in weights.items() if not key.startswith("pooler.")})
    load_bert(cfg, weights | {"embeddings.position_ids": np.arange(12)[None]})
    load_bert(cfg, weights | {"cls.predictions.bias": np.zeros(40), "cls.seq_relationship.bias": np.zeros(2)})


def test_every_mismatched_key_is_listed_at_once(cfg, weights):
    broken = dict(weights)
    del broken["encoder.layer.2.output.dense.bias"]
    del broken["embeddings.word_embeddings.weight"]
    broken["encoder.layer.3.output.dense.bias"] = np.zeros(24, np.float32)
    broken["encoder.layer.0.intermediate.dense.weight"] = np.zeros((24, 56), np.float32)
    with pytest.raises(ValueError, match="weights do not fit the network") as error:
        load_bert(cfg, broken)
    assert str(error.value).splitlines()[1:] == [
        "  misshapen   encoder.layer.0.intermediate.dense.weight: (24, 56), the network has (56, 24)",
        "  missing     embeddings.word_embeddings.weight (40, 24)",
        "  missing     encoder.layer.2.output.dense.bias (24,)",
        "  unexpected  encoder.layer.3.output.dense.bias (24,)",
    ]


def test_half_precision_weights_become_float32_parameters(cfg, weights):
    bert = load_bert(cfg, {key: tensor.astype(np.float16) for key, tensor in weights.items()})
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(bert))} == {jnp.dtype("float32")}


def test_bfloat16_computation_returns_float32_states_near_the_exact_ones(cfg, weights, golden):
    states = run(load_bert(cfg, weights, dtype=jnp.bfloat16), golden["token_ids"], golden["mask"])
    assert states.dtype == jnp.float32
    error = np.abs(states - golden["states"])
    # bfloat16 rounds to 1/256; a few matmuls deep, with sharp attention, single values stray further than the mean.
    assert 1e-5 < error.mean() < 0.05


def test_full_size_bilingual_clip_text_tower_has_its_published_shape():
    cfg = BertConfig.from_hf({
        "vocab_size": 47020,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 512,
        "hidden_act": "gelu",
    })  # fmt: skip
    bert = nnx.eval_shape(lambda: Bert(cfg, rngs=nnx.Rngs(0)))
    tokens = jax.ShapeDtypeStruct((2, 77), jnp.int32)
    states = nnx.eval_shape(lambda model, *inputs: model(*inputs), bert, tokens, tokens)
    assert states.shape == (2, 77, 1024)
    embeddings = (47020 + 512 + 2) * 1024 + 2 * 1024
    layer = 4 * (1024 * 1024 + 1024) + 2 * 4 * 1024 * 1024 + 4096 + 1024 + 2 * 2 * 1024
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(bert))) == embeddings + 24 * layer


def test_text_longer_than_the_position_table_is_refused(bert):
    with pytest.raises(ValueError, match="length 13: this BERT knows 12 positions"):
        bert(jnp.zeros((1, 13), jnp.int32), jnp.ones((1, 13), jnp.int32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act = 'gelu_new'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"num_attention_heads": 5}, "hidden_size = 24: must be a multiple of num_attention_heads = 5"),
        ({"hidden_size": None}, "hidden_size = None: must be an integer above 0. Take the checkpoint's own"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0: must be an integer above 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers = True: must be an integer"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps = '1e-12': must be a number above 0"),
    ],
)
def test_config_of_another_variant_is_refused(cfg, fields, message):
    with pytest.raises(WeightsError, match=message):
        BertConfig.from_hf(vars(cfg) | fields)


def test_config_names_every_missing_size():
    with pytest.raises(WeightsError, match=r"vocab_size, num_hidden_layers, .*, max_position_embeddings: not in"):
        BertConfig.from_hf({"hidden_size": 24})
