"""Writes t5.safetensors and t5_bert.safetensors beside this script: what `transformers` computes, to compare with.

The first holds a small random mT5 encoder whole: weights, token ids, mask, states. The second a released model's text
encoder at a tiny size: an mT5 with its sentencepiece model, a BERT with its vocabulary, prompts, token ids and states.
Needs an environment of its own with torch, transformers, sentencepiece and safetensors:

    python tests/golden/make_t5.py
"""
# pyright: reportMissingImports=false

import io
import json
import tempfile
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, BertTokenizer, MT5Config, MT5EncoderModel, T5Tokenizer

# 24 tokens and a largest distance of 12: all buckets are hit, those of ranges and those of the farthest among them.
SMALL = {
    "model_type": "mt5",
    "vocab_size": 64,
    "d_model": 24,
    "d_kv": 10,  # 3 heads x 10 is not d_model
    "d_ff": 40,
    "num_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 12,
    "relative_attention_max_distance": 12,
    "feed_forward_proj": "gated-gelu",
}
TINY_BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}
MAX_LENGTH, POOLED_LENGTH = 16, 10
SENTENCES = [
    "a red apple on a wooden table",
    "a green apple and a yellow pear",
    "smiling face with open mouth and smiling eyes",
    "an old lighthouse on a cliff at dusk, waves below it",
    "one small boat with a red sail coming home before the storm",
]
# Empty; short; with words that neither vocabulary holds; longer than both windows.
PROMPTS = ["", "Red apple", "a café on the cliff", SENTENCES[3] + ", " + SENTENCES[4]]
WORDS = "a an the red green apple pear face smiling old light ##house on cliff at dusk wave ##s cafe small boat , ."
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]


def random_mt5(fields: dict) -> MT5EncoderModel:
    """Makes an encoder whose position bias and norms are far from their initial values, so that they are tested."""
    model = MT5EncoderModel(MT5Config(**fields)).eval()
    for name, parameter in model.named_parameters():
        if "relative_attention_bias" in name:
            parameter.copy_(torch.randn_like(parameter))
        if "layer_norm" in name:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def weights(prefix: str, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns a model's tensors by key; a tied embedding once, as `save_pretrained` writes it."""
    tensors = {f"{prefix}{key}": tensor.contiguous().clone() for key, tensor in model.state_dict().items()}
    return {key: tensor for key, tensor in tensors.items() if not key.endswith("encoder.embed_tokens.weight")}


def small_t5() -> None:
    model = random_mt5(SMALL)
    token_ids = torch.randint(0, SMALL["vocab_size"], (3, 24))
    mask = (torch.arange(24) < torch.tensor([[24], [13], [1]])).long()
    tensors = weights("weights.", model) | {
        "token_ids": token_ids.to(torch.int32),
        "mask": mask.to(torch.int32),
        "states_unmasked": model(token_ids).last_hidden_state,
        "states_masked": model(token_ids, attention_mask=mask).last_hidden_state,
    }
    save_file(tensors, Path(__file__).with_name("t5.safetensors"), {"config": json.dumps(SMALL)})


def train_sentencepiece() -> bytes:
    """Trains a unigram model with T5's special ids; without normalisation, whose rules alone take 240 kB."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, vocab_size=50, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, normalization_rule_name="identity", minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def t5_bert() -> None:
    spiece = train_sentencepiece()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "spiece.model").write_bytes(spiece)
        (Path(folder) / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
        t5_tokenizer = T5Tokenizer.from_pretrained(folder, extra_ids=0)
        bert_tokenizer = BertTokenizer.from_pretrained(folder)
    mt5_fields = SMALL | {"vocab_size": 56, "num_layers": 2}  # more rows than tokens, as mT5 has
    bert_fields = TINY_BERT | {"vocab_size": len(VOCABULARY)}
    mt5, bert = random_mt5(mt5_fields), BertModel(BertConfig(**bert_fields, initializer_range=0.3)).eval()
    padded = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    t5_inputs = t5_tokenizer(PROMPTS, max_length=MAX_LENGTH, **padded)
    bert_inputs = bert_tokenizer(PROMPTS, max_length=POOLED_LENGTH, **padded)
    bert_states = bert(bert_inputs["input_ids"], attention_mask=bert_inputs["attention_mask"]).last_hidden_state
    tensors = weights("mt5.", mt5) | weights("mclip.", bert) | {
        "spiece.model": torch.frombuffer(bytearray(spiece), dtype=torch.uint8),
        "t5_token_ids": t5_inputs["input_ids"].to(torch.int32),
        "t5_mask": t5_inputs["attention_mask"].to(torch.int32),
        "bert_token_ids": bert_inputs["input_ids"].to(torch.int32),
        "embeds_kept": mt5(t5_inputs["input_ids"]).last_hidden_state,
        "embeds_masked": mt5(t5_inputs["input_ids"], attention_mask=t5_inputs["attention_mask"]).last_hidden_state,
        "pooled": bert_states[:, 0].contiguous(),
    }  # fmt: skip
    metadata = {
        "prompts": PROMPTS, "vocabulary": VOCABULARY, "mt5_config": mt5_fields, "mclip_config": bert_fields,
        "max_length": MAX_LENGTH, "pooled_length": POOLED_LENGTH,
    }  # fmt: skip
    encoded = {name: json.dumps(value) for name, value in metadata.items()}
    save_file(tensors, Path(__file__).with_name("t5_bert.safetensors"), encoded)


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    small_t5()
    t5_bert()


if __name__ == "__main__":
    main()
