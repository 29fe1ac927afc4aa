import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax.config import ConfigError
from nami_jax.models.bert import BertConfig
from nami_jax.weights.bert_keys import load_bert, read_bert_config
from tests.support.golden_networks import golden_bert


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return golden_bert().weights


@pytest.fixture(scope="module")
def cfg() -> BertConfig:
    return read_bert_config(golden_bert().config)


def test_keys_may_carry_the_prefix_of_a_larger_model(cfg, weights):
    bare = load_bert(cfg, weights)
    prefixed = load_bert(cfg, {f"bert.{key}": tensor for key, tensor in weights.items()})
    same = jax.tree.map(np.array_equal, nnx.to_pure_dict(nnx.state(bare)), nnx.to_pure_dict(nnx.state(prefixed)))
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
    with pytest.raises(ValueError, match="weights do not match the network") as error:
        load_bert(cfg, broken)
    assert str(error.value).splitlines()[1:] == [
        "  mismatched  encoder.layer.0.intermediate.dense.weight: (24, 56), the network has (56, 24)",
        "  missing     embeddings.word_embeddings.weight (40, 24)",
        "  missing     encoder.layer.2.output.dense.bias (24,)",
        "  unexpected  encoder.layer.3.output.dense.bias (24,)",
    ]


def test_half_precision_weights_become_float32_parameters(cfg, weights):
    bert = load_bert(cfg, {key: tensor.astype(np.float16) for key, tensor in weights.items()})
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(bert))} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act = 'gelu_new'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"num_attention_heads": 5}, "hidden_size = 24: must be a multiple of num_attention_heads = 5"),
        ({"hidden_size": None}, "hidden_size = None: must be an integer. Use the checkpoint's own"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0: must be at least 1"),
        ({"num_hidden_layers": True}, "num_hidden_layers = True: must be an integer"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps = '1e-12': must be a number"),
        ({"num_hidden_layers": 10**5}, "num_hidden_layers = 100000: must be in"),
    ],
)
def test_config_of_another_variant_is_refused(cfg, fields, message):
    with pytest.raises(ConfigError, match=message):
        read_bert_config(vars(cfg) | fields)


def test_config_names_every_missing_size():
    with pytest.raises(ConfigError, match=r"^vocab_size, num_hidden_layers, .*, max_position_embeddings: are missing"):
        read_bert_config({"hidden_size": 24})
