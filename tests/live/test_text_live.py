"""T5, BERT and the released model's text encoder against `transformers`, on random weights and tokenisers made here."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
from flax import nnx

from nami_jax.config import TextConfig
from nami_jax.models.t5 import relative_buckets
from nami_jax.text.encoders import load_text_encoder
from nami_jax.text.tokens import bert_tokenizer, t5_tokenizer
from nami_jax.weights import open_tensors
from nami_jax.weights.bert_keys import load_bert, read_bert_config
from nami_jax.weights.t5_keys import load_t5, read_t5_config

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

T5 = {
    "vocab_size": 160,
    "d_model": 40,
    "d_kv": 12,
    "d_ff": 56,
    "num_layers": 4,
    "num_heads": 5,  # 5 x 12 is not 40
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "gated-gelu",
}
BERT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 72,
    "max_position_embeddings": 80,
}
SENTENCES = [
    "a watercolour painting of an old lighthouse on a cliff at dusk, waves breaking below it",
    "one small boat with a red sail coming home before the storm, gulls in the wind",
    "a portrait of a smiling woman with a straw hat in a field of yellow tulips",
    "two dogs play with a ball on the beach; the sun is low and the water shines",
    "a bowl of apples, pears and grapes on a wooden table beside a blue jug",
    "街道上的一只黑猫",
    "山上的灯塔和大海",
]
WORDS = "a an the of and in on with red blue old black small boat cat dog ##s sail light ##house table ,  . 灯 塔 大 海"
LENGTH, POOLED_LENGTH = 40, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The converted layout: random weights saved by transformers, tokenisers trained here with mT5's normalisation."""
    folder = tmp_path_factory.mktemp("release")
    torch.manual_seed(1)
    mt5 = transformers.MT5EncoderModel(transformers.MT5Config(**T5))
    bert = transformers.BertModel(transformers.BertConfig(**BERT, initializer_range=0.2))
    with torch.no_grad():  # far from their initial values, so that they are tested
        for name, parameter in (*mt5.named_parameters(), *bert.named_parameters()):
            if "relative_attention_bias" in name:
                parameter.copy_(torch.randn_like(parameter))
            if "orm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    mt5.save_pretrained(folder / "mt5")
    bert.save_pretrained(folder / "mclip")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(folder / "mt5" / "spiece"),
        vocab_size=88,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    (folder / "mclip" / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    """Fragments of the sentences at random, in odd spacing, case and width; empty; longer than both windows."""
    rng = np.random.default_rng(2)
    words = [word for sentence in SENTENCES for word in sentence.split()]
    drawn = [" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(12)]
    odd = ["  Two   spaces ", "LIGHTHOUSE", "ｆｕｌｌ ｗｉｄｔｈ", "café\tau\nlait", "灯塔on the大海"]
    return ["", *drawn, *odd, " ".join(SENTENCES)]


@pytest.fixture(scope="module")
def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Token ids (3, 150) and a mask: longer than the largest distance of the position bias."""
    ids = np.random.default_rng(0).integers(0, T5["vocab_size"], (3, 150), dtype=np.int32)
    return ids, (np.arange(150) < np.array([[150], [60], [1]])).astype(np.int32)


def relative_error(found: Any, exact: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(found, np.float32) - exact) / np.linalg.norm(exact))


@torch.no_grad()
def torch_states(model, token_ids: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    given = {} if mask is None else {"attention_mask": torch.from_numpy(mask).long()}
    return model(torch.from_numpy(token_ids).long(), **given).last_hidden_state.numpy()


@nnx.jit
def run(model: nnx.Module, token_ids: jax.Array, mask: jax.Array | None) -> jax.Array:
    return model(token_ids, mask)  # pyright: ignore[reportCallIssue]


TOLERANCES = [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)]


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("masked", [False, True])
def test_t5_agrees(folder, inputs, dtype, tolerance, masked):
    token_ids, mask = inputs[0], inputs[1] if masked else None
    exact = torch_states(transformers.MT5EncoderModel.from_pretrained(folder / "mt5"), token_ids, mask)
    t5 = load_t5(read_t5_config(T5), open_tensors(folder / "mt5"), dtype, param_dtype=dtype)
    assert relative_error(run(t5, token_ids, mask), exact) <= tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_bert_agrees(folder, inputs, dtype, tolerance):
    token_ids, mask = inputs[0][:, :80] % BERT["vocab_size"], inputs[1][:, :80]
    exact = torch_states(transformers.BertModel.from_pretrained(folder / "mclip"), token_ids, mask)
    bert = load_bert(read_bert_config(BERT), open_tensors(folder / "mclip"), dtype, param_dtype=dtype)
    assert relative_error(run(bert, token_ids, mask), exact) <= tolerance


@pytest.mark.parametrize("buckets", [4, 8, 12, 32, 64])
def test_buckets_are_the_same(buckets):
    position = torch.arange(300)
    offset = position[None] - position[:, None]
    for distance in (17, 20, 64, 100, 128, 256):
        sizes = {"relative_attention_num_buckets": buckets, "relative_attention_max_distance": distance}
        attention = transformers.models.mt5.modeling_mt5.MT5Attention
        exact = attention._relative_position_bucket(offset, True, buckets, distance)
        np.testing.assert_array_equal(relative_buckets(read_t5_config(T5 | sizes), 300), exact.numpy())


def test_t5_tokens_are_the_same(folder, prompts):
    tokenizer = transformers.T5Tokenizer.from_pretrained(folder / "mt5", extra_ids=0)
    exact = tokenizer(prompts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np")
    tokens = t5_tokenizer(folder / "mt5", LENGTH, "text.max_length")(prompts)
    np.testing.assert_array_equal(tokens.ids, exact["input_ids"])
    np.testing.assert_array_equal(tokens.mask, exact["attention_mask"])


SPECIAL = ["red</s>apple", "red </s> apple", "<pad>boat", "a <unk> boat", "a </s></s> b", "a <extra_id_0> b"]


@pytest.mark.parametrize("extra_ids", [0, 100])
def test_special_tokens_in_a_text_are_read_as_such(folder, tmp_path, extra_ids):
    tokenizer = transformers.T5Tokenizer.from_pretrained(folder / "mt5", extra_ids=extra_ids)
    (tmp_path / "spiece.model").write_bytes((folder / "mt5" / "spiece.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"extra_ids": extra_ids}))
    exact = tokenizer(SPECIAL, padding="max_length", max_length=LENGTH, return_tensors="np")["input_ids"]
    np.testing.assert_array_equal(t5_tokenizer(tmp_path, LENGTH, "text.max_length")(SPECIAL).ids, exact)


def test_sentinels_of_the_vocabulary_are_read_as_such(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_prefix=str(tmp_path / "spiece"), vocab_size=90, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, normalization_rule_name="nmt_nfkc", minloglevel=2,
        user_defined_symbols=["▁<extra_id_1>", "▁<extra_id_0>"],
    )  # fmt: skip
    exact = transformers.T5Tokenizer.from_pretrained(tmp_path, extra_ids=0)(
        SPECIAL, padding="max_length", max_length=LENGTH, return_tensors="np"
    )["input_ids"]
    ids = t5_tokenizer(tmp_path, LENGTH, "text.max_length")(SPECIAL).ids
    np.testing.assert_array_equal(ids, exact)
    assert 4 in ids[-1]  # ▁<extra_id_0>


@pytest.mark.parametrize("lower", [True, False])
def test_bert_tokens_are_the_same(folder, prompts, tmp_path, lower):
    (tmp_path / "vocab.txt").write_bytes((folder / "mclip" / "vocab.txt").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path)
    exact = tokenizer(prompts, padding="max_length", truncation=True, max_length=POOLED_LENGTH, return_tensors="np")
    tokens = bert_tokenizer(tmp_path, POOLED_LENGTH, "text.pooled_length")(prompts)
    np.testing.assert_array_equal(tokens.ids, exact["input_ids"])
    np.testing.assert_array_equal(tokens.mask, exact["attention_mask"])


def test_tokens_by_tokenizer_json_are_the_same(folder, prompts, tmp_path):
    for part, cls, ours in (("mt5", "T5Tokenizer", t5_tokenizer), ("mclip", "BertTokenizer", bert_tokenizer)):
        given = {"extra_ids": 0} if part == "mt5" else {}
        getattr(transformers, cls).from_pretrained(folder / part, **given).save_pretrained(tmp_path / part)
        assert (tmp_path / part / "tokenizer.json").is_file()
        tokens, exact = (ours(path / part, LENGTH, "text.max_length")(prompts) for path in (tmp_path, folder))
        np.testing.assert_array_equal(tokens.ids, exact.ids)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("mask_padding", [False, True])
def test_released_text_encoder_agrees(folder, prompts, dtype, tolerance, mask_padding):
    given = {"padding": "max_length", "truncation": True, "return_tensors": "np"}
    t5_tokens = transformers.T5Tokenizer.from_pretrained(folder / "mt5", extra_ids=0)(
        prompts, max_length=LENGTH, **given
    )
    bert_tokens = transformers.BertTokenizer.from_pretrained(folder / "mclip")(
        prompts, max_length=POOLED_LENGTH, **given
    )
    t5_mask = t5_tokens["attention_mask"]
    embeds = torch_states(
        transformers.MT5EncoderModel.from_pretrained(folder / "mt5"),
        t5_tokens["input_ids"],
        t5_mask if mask_padding else None,
    )
    bert = transformers.BertModel.from_pretrained(folder / "mclip")
    pooled = torch_states(bert, bert_tokens["input_ids"], bert_tokens["attention_mask"])[:, 0]
    cfg = TextConfig("t5_bert", LENGTH, mask_padding, str(folder), POOLED_LENGTH)
    states = load_text_encoder(cfg, dtype=dtype)(prompts)
    assert relative_error(states.embeds, embeds * t5_mask[:, :, None] if mask_padding else embeds) <= tolerance
    assert relative_error(states.pooled, pooled) <= tolerance
