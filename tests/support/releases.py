"""A release of NAMI at a tiny size, written as safetensors: golden transformer and bridge, the rest random."""

import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from nami_jax.release.networks import DESCRIBE
from tests.support.paths import GOLDEN

VECTORS = GOLDEN / "nami_tiny"
TRANSFORMER = json.loads((VECTORS / "config.json").read_text())["transformer"]
CONFIGS = {
    "transformer": TRANSFORMER,
    "vae": {
        "block_out_channels": [4, 4, 4, 8], "latent_channels": TRANSFORMER["in_channels"] // 4, "norm_num_groups": 4,
        "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 0.36, "shift_factor": 0.12,
    },
    "mt5": {
        "model_type": "mt5", "feed_forward_proj": "gated-gelu", "vocab_size": 64, "d_kv": 8, "d_ff": 24,
        "d_model": TRANSFORMER["joint_attention_dim"], "num_layers": 2, "num_heads": 3,
    },
    "mclip": {
        "vocab_size": 64, "hidden_size": TRANSFORMER["pooled_projection_dim"], "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 32, "max_position_embeddings": 77,
    },
}  # fmt: skip
TOKENIZERS = {"mt5": "spiece.model", "mclip": "vocab.txt"}  # stand-ins: conversion copies them and reads them not


def random_tensors(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Draws bfloat16 weights for a part."""
    rng = np.random.default_rng(seed)
    shapes = DESCRIBE[name](CONFIGS[name]).shapes
    return {key: rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for key, shape in shapes.items()}


def release_tensors() -> dict[str, dict[str, np.ndarray]]:
    """Returns the tensors of all parts: float32 from the golden files, bfloat16 where random."""
    mclip = random_tensors("mclip") | {"pooler.dense.bias": np.ones(24, np.float16)}
    return {
        "transformer": load_file(VECTORS / "transformer.safetensors"),
        "bridge_flow": load_file(VECTORS / "bridge_flow.safetensors"),
        "vae": random_tensors("vae"),
        "mt5": random_tensors("mt5"),
        "mclip": mclip,
    }


def write_side_files(folder: Path) -> None:
    """Writes what a release has beside its weights: config.json of each part, and tokenisers."""
    for name, config in CONFIGS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(config))
    for name, file in TOKENIZERS.items():
        (folder / name / file).write_bytes(b"\x00tokens of " + name.encode())
        (folder / name / "tokenizer_config.json").write_text("{}")


def write_release(folder: Path, tensors: Mapping[str, Mapping[str, np.ndarray]]) -> Path:
    """Writes a release whose weights are safetensors, mT5's in two shards."""
    write_side_files(folder)
    mt5 = dict(tensors["mt5"])
    keys = list(mt5)
    save_file(dict(tensors["transformer"]), folder / "transformer" / "diffusion_pytorch_model.safetensors")
    save_file(dict(tensors["bridge_flow"]), folder / "bridge_flow.safetensors")
    save_file(dict(tensors["vae"]), folder / "vae" / "diffusion_pytorch_model.safetensors")
    save_file(dict(tensors["mclip"]), folder / "mclip" / "model.safetensors")
    shards = {f"model-0000{i}-of-00002.safetensors": keys[i - 1 :: 2] for i in (1, 2)}
    for name, some in shards.items():
        save_file({key: mt5[key] for key in some}, folder / "mt5" / name)
    homes = {key: name for name, some in shards.items() for key in some}
    index = {"metadata": {"total_size": 0}, "weight_map": homes}
    (folder / "mt5" / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
