"""Which files a release has, and which tensors are in which: read, checked for form, kept in release.json.

A release has `transformer/`, `vae/`, `mt5/` and `mclip/`, each with config.json and weights as .bin or .safetensors,
single or cut into shards with an index, and `bridge_flow.bin` beside them. Our folders differ in this: the bridge has a
folder too, and all weights are safetensors, under the same keys.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pydantic

from nami_jax.config import ConfigError, Settings, shown
from nami_jax.config.settings import settings
from nami_jax.files.json_files import read_json
from nami_jax.release.pickles import PickledTensor, open_pickle
from nami_jax.weights import Tensor, WeightsError, open_tensors
from nami_jax.weights.converted import BRIDGE
from nami_jax.weights.tensors import LONGEST_NAME, indexed_files

RECORD_FILE = "release.json"
COPIED = ("*.json", "*.txt", "*.model")  # config and tokeniser, in any of their forms
# What training wrappers put before every key.
PREFIXES = ("module.", "_orig_mod.", "model.")


class Part(NamedTuple):
    """One network of a release."""

    stem: str  # of its safetensors files
    pickle: str  # the file that a release keeps it in
    tokenizer: tuple[str, ...] = ()  # files of which one must be there


PARTS = {
    "transformer": Part("diffusion_pytorch_model", "transformer/pytorch_model_fsdp.bin"),
    BRIDGE: Part("model", f"{BRIDGE}.bin"),
    "vae": Part("diffusion_pytorch_model", "vae/diffusion_pytorch_model.bin"),
    "mt5": Part("model", "mt5/pytorch_model.bin", ("spiece.model", "tokenizer.json")),
    "mclip": Part("model", "mclip/pytorch_model.bin", ("vocab.txt", "tokenizer.json")),
}


@settings(remedy="Convert again")
class Record(Settings):
    """How a part was stored in its release: what exporting needs to know."""

    files: dict[str, list[str]]  # file, from the release's folder -> its keys, without `prefix`
    index: str | None = None  # the index of the shards
    prefix: str = ""  # of every key
    aliases: dict[str, str] = pydantic.Field(default_factory=dict)  # key -> another, of which it is a second name
    left_out: int = 0  # tensors that were not converted, since they are not part of the network
    left_out_bytes: int = 0

    def __post_init__(self) -> None:
        for name in (*self.files, *([] if self.index is None else [self.index])):
            path = PurePosixPath(name)
            odd = len(name) > 2 * LONGEST_NAME or "\\" in name or "\0" in name
            if odd or path.is_absolute() or ".." in path.parts or len(path.parts) not in (1, 2):
                raise ConfigError(f"{RECORD_FILE} names the file {shown(name)}, which no release has. Convert again.")


class ReleasedPart(NamedTuple):
    """A part as it was found."""

    folder: Path
    config: Mapping[str, Any] | None  # of config.json; None: there is none
    tensors: dict[str, Tensor]  # in the order of the files, without the record's prefix
    record: Record


def read_part(release: Path, name: str) -> ReleasedPart | None:
    """Lists what a release holds of one part; None: nothing.

    Raises:
        WeightsError: a file is missing, damaged or not what a release has; the message says which.
        ModuleNotFoundError: the weights are pickles, and torch is not installed.
    """
    files, index = find_weights(release, name)
    if not files:
        return None
    tensors: dict[str, Tensor] = {}
    homes: dict[str, list[str]] = {}
    for file in files:
        opened = open_pickle(file) if file.suffix == ".bin" else open_tensors(file)
        twice = sorted(opened.keys() & tensors.keys())
        if twice:
            raise WeightsError(f"{twice[0]} is in {file} and in another file of {file.parent}. Keep one of them.")
        tensors |= opened
        homes[_relative(file, release)] = list(opened)
    prefix = common_prefix(tensors)
    bare = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    record = Record(
        {file: [key.removeprefix(prefix) for key in keys] for file, keys in homes.items()},
        None if index is None else _relative(index, release),
        prefix,
        {
            key: tensor.alias.removeprefix(prefix)
            for key, tensor in bare.items()
            if isinstance(tensor, PickledTensor) and tensor.alias is not None
        },
    )
    config = release / name / "config.json"
    return ReleasedPart(release / name, read_json(config, "Fetch it again") if config.exists() else None, bare, record)


def find_weights(release: Path, name: str) -> tuple[list[Path], Path | None]:
    """Returns the files of a part's weights, safetensors rather than pickles, and the index of the shards.

    Raises:
        WeightsError: a shard is missing, or there is more than one set of weights.
    """
    folder = release / name
    for suffix, single in (("safetensors", "*.safetensors"), ("bin", "*model*.bin")):
        indices = sorted(folder.glob(f"*.{suffix}.index.json"))
        files = sorted(folder.glob(single))
        if not indices and not files and name == BRIDGE:
            files = [file for file in [release / f"{BRIDGE}.{suffix}"] if file.is_file()]
        if len(indices) > 1 or (not indices and not _is_one_set(files)):
            names = ", ".join(file.name for file in indices or files)
            raise WeightsError(f"{folder} has several sets of weights, or an incomplete one: {names}. Keep one.")
        if indices:
            files = [folder / file for file in indexed_files(indices[0])]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise WeightsError(f"{folder}: {', '.join(missing)} not found. Use a complete release.")
        if files:
            return files, indices[0] if indices else None
    return [], None


def _is_one_set(files: list[Path]) -> bool:
    """Says whether these are at most one file, or the shards of one set, all of them."""
    shards = [re.fullmatch(r"(.+)-\d+-of-(\d+)", file.stem) for file in files]
    sets = {(shard[1], int(shard[2])) for shard in shards if shard is not None}
    return len(files) <= 1 or (None not in shards and len(sets) == 1 and sets.pop()[1] == len(files))


def common_prefix(keys: Collection[str]) -> str:
    """Returns what training wrappers put before every one of these keys, "" if nothing."""
    prefix = ""
    while found := [p for p in PREFIXES if keys and all(key.startswith(prefix + p) for key in keys)]:
        prefix += found[0]
    return prefix


def copied_files(folder: Path) -> list[Path]:
    """Returns the files of a part that are copied as they are: config and tokeniser, not indices of shards."""
    found = {file for pattern in COPIED for file in folder.glob(pattern) if file.is_file()}
    return sorted(file for file in found if not file.name.endswith(".index.json"))


def read_records(folder: Path) -> dict[str, Record]:
    """Returns how the parts of a converted folder were stored in their release, {} if it was not converted from one.

    Raises:
        ConfigError: release.json is damaged.
    """
    path = folder / RECORD_FILE
    if not path.exists():
        return {}
    parts = read_json(path, "Convert again")
    try:
        return {name: Record.from_dict(part) for name, part in parts.items()}
    except ConfigError as error:
        raise ConfigError(f"{path} is damaged: {error}") from error


def _relative(file: Path, release: Path) -> str:
    return file.relative_to(release).as_posix()
