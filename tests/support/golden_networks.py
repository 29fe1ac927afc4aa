"""Networks that PyTorch computed at a tiny size: their config.json, weights, inputs and results."""

import json
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from tests.support.paths import GOLDEN


class GoldenNetwork(NamedTuple):
    config: dict[str, Any]  # of config.json
    weights: dict[str, np.ndarray]
    vectors: dict[str, np.ndarray]  # inputs and results


def golden_bert() -> GoldenNetwork:
    """Returns what `tests/golden/make_bert.py` made of a small `BertModel`."""
    return _read("bert", "small.", lambda metadata: json.loads(metadata["small_config"]))


def golden_t5() -> GoldenNetwork:
    """Returns what `tests/golden/make_t5.py` made of a `T5EncoderModel`."""
    return _read("t5", "", lambda metadata: json.loads(metadata["config"]))


def golden_autoencoder(name: str) -> GoldenNetwork:
    """Returns what `tests/golden/make_autoencoder.py` made of an `AutoencoderKL`; images and latents are NHWC.

    Args:
        name: "attention" (downscale 2, four channels, a shift, no quant convolutions) or "quant".
    """
    config, weights, vectors = _read("autoencoder", f"{name}.", lambda metadata: json.loads(metadata["configs"])[name])
    return GoldenNetwork(config, weights, {key: tensor.transpose(0, 2, 3, 1) for key, tensor in vectors.items()})


def golden_features(name: str) -> GoldenNetwork:
    """Returns what `tests/golden/make_features.py` made of "dinov2" or "clip"; images are NHWC."""
    return _read("features", f"{name}.", lambda metadata: json.loads(metadata[name]))


def _read(file: str, prefix: str, config: Any) -> GoldenNetwork:
    path = GOLDEN / f"{file}.safetensors"
    with safetensors.safe_open(path, "np") as opened:
        fields = config(opened.metadata())
    tensors = safetensors.numpy.load_file(path)
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    weights = {key.removeprefix("weights."): own.pop(key) for key in list(own) if key.startswith("weights.")}
    return GoldenNetwork(fields, weights, own)
