import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nami_jax.config import ConfigError
from nami_jax.models.bert import Bert, BertConfig
from nami_jax.weights.bert_keys import load_bert, read_bert_config
from tests.support.golden_networks import golden_bert


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return golden_bert().vectors


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return golden_bert().weights


@pytest.fixture(scope="module")
def cfg() -> BertConfig:
    return read_bert_config(golden_bert().config)


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


def test_bfloat16_computation_returns_float32_states_near_the_exact_ones(cfg, weights, golden):
    states = run(load_bert(cfg, weights, dtype=jnp.bfloat16), golden["token_ids"], golden["mask"])
    assert states.dtype == jnp.float32
    error = np.abs(states - golden["states"])
    # bfloat16 rounds to 1/256; a few matmuls deep, with sharp attention, single values stray further than the mean.
    assert 1e-5 < error.mean() < 0.05


def test_full_size_bilingual_clip_text_tower_has_its_published_shape():
    cfg = BertConfig(
        vocab_size=47020,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=512,
    )
    bert = nnx.eval_shape(lambda: Bert(cfg, rngs=nnx.Rngs(0)))
    tokens = jax.ShapeDtypeStruct((2, 77), jnp.int32)
    states = nnx.eval_shape(lambda model, *inputs: model(*inputs), bert, tokens, tokens)
    assert states.shape == (2, 77, 1024)
    embeddings = (47020 + 512 + 2) * 1024 + 2 * 1024
    layer = 4 * (1024 * 1024 + 1024) + 2 * 4 * 1024 * 1024 + 4096 + 1024 + 2 * 2 * 1024
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(bert))) == embeddings + 24 * layer


def test_text_longer_than_the_position_table_is_refused(bert):
    with pytest.raises(ValueError, match="length 13: this BERT has 12 positions"):
        bert(jnp.zeros((1, 13), jnp.int32), jnp.ones((1, 13), jnp.int32))


def test_heads_that_do_not_divide_the_width_are_refused(cfg):
    with pytest.raises(ConfigError, match="hidden_size = 24: must be a multiple of num_attention_heads = 5"):
        dataclasses.replace(cfg, num_attention_heads=5)
