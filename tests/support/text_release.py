"""A released text encoder at a tiny size on disk, from the golden file of `tests/golden/make_t5.py`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from nami_jax.config import TextConfig
from tests.support.paths import GOLDEN

VECTORS = GOLDEN / "t5_bert.safetensors"


def golden_tensors() -> dict[str, np.ndarray]:
    """Returns weights ("mt5.…", "mclip.…"), "spiece.model" as bytes, token ids and states, by key."""
    return safetensors.numpy.load_file(VECTORS)


def golden_facts() -> dict[str, Any]:
    """Returns prompts, vocabulary, both configs and both window lengths."""
    with safetensors.safe_open(VECTORS, "np") as file:
        return {name: json.loads(value) for name, value in file.metadata().items()}


def text_config(folder: Path, **changed: Any) -> TextConfig:
    """Returns the configuration of the golden run."""
    facts = golden_facts()
    lengths = {"max_length": facts["max_length"], "pooled_length": facts["pooled_length"]}
    return TextConfig(**{"encoder": "t5_bert", "folder": str(folder), "mask_padding": False, **lengths, **changed})


def write_release(folder: Path) -> Path:
    """Writes `mt5/` and `mclip/` as the converted release lays them out; returns `folder`."""
    tensors, facts = golden_tensors(), golden_facts()
    for part in ("mt5", "mclip"):
        (folder / part).mkdir(parents=True)
        weights = {key.removeprefix(f"{part}."): x for key, x in tensors.items() if key.startswith(f"{part}.")}
        safetensors.numpy.save_file(weights, folder / part / "model.safetensors")
        (folder / part / "config.json").write_text(json.dumps(facts[f"{part}_config"]))
    write_tokenizers(folder)
    return folder


def write_tokenizers(folder: Path) -> None:
    """Writes the files of both tokenisers beside their weights."""
    (folder / "mt5" / "spiece.model").write_bytes(golden_tensors()["spiece.model"].tobytes())
    (folder / "mclip" / "vocab.txt").write_text("\n".join(golden_facts()["vocabulary"]) + "\n")
