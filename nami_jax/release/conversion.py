"""From a release to our folder: `convert_release`. Everything is checked before anything is written."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import NamedTuple

from nami_jax.checkpoints.runs import require_same_network
from nami_jax.config import ConfigError, PipelineConfig
from nami_jax.release.folders import new_folder, require_new
from nami_jax.release.networks import Network, check_parts, pipeline_config
from nami_jax.release.released_parts import PARTS, RECORD_FILE, Record, ReleasedPart, copied_files, read_part
from nami_jax.terminal.progress import progress_bar
from nami_jax.weights import Tensor, save_tensors, tensor_bytes
from nami_jax.weights.converted import BRIDGE, PIPELINE_FILE, TRANSFORMER, VAE, read_pipeline_config, write_settings

WHICH = "Pass the folder that contains transformer/, or a run's workdir"


class Converted(NamedTuple):
    """The outcome of a conversion."""

    sizes: dict[str, int]  # part -> bytes
    left_out: dict[str, int]  # part -> bytes of tensors that are not part of its network
    absent: list[str]


def convert_release(source: Path, target: Path, *, allow_missing: bool = False) -> Converted:
    """Writes a release's weights, configurations and tokenisers as a folder that `NamiPipeline` loads.

    Tensors keep their type and bits.

    Args:
        source: the release.
        target: a new folder.
        allow_missing: go on without an autoencoder, a text encoder or a tokeniser; they can be added to `target` later.

    Raises:
        ConfigError: `target` exists, or a part is missing.
        WeightsError: a file is damaged, a network is not supported, or tensors do not match it.
        ModuleNotFoundError: the weights are pickles, and torch is not installed.
    """
    require_new(target)
    if not source.is_dir():
        raise ConfigError(
            f"from = {str(source)!r}: is not a folder. Pass the folder that contains transformer/, or a run's workdir."
        )
    found = {name: read_part(source, name) for name in PARTS}
    parts = {name: part for name, part in found.items() if part is not None}
    settings = read_pipeline_config(source) if (source / PIPELINE_FILE).is_file() else None  # an exported run has one
    absent = missing_files(parts, settings)
    if "transformer" not in parts or (absent and not allow_missing):
        remedy = (
            "Complete the release, or convert it without them with --allow_missing" if "transformer" in parts else WHICH
        )
        raise ConfigError(f"from = {str(source)!r}: lacks {', '.join(absent)}. {remedy}.")
    networks = check_parts(parts)
    settings = pipeline_config(networks) if settings is None else settings
    require_same_network(settings.model, networks[TRANSFORMER].sizes, source / TRANSFORMER)
    plans = {name: plan(part, networks[name]) for name, part in parts.items()}
    sizes = {name: sum(map(tensor_bytes, tensors.values())) for name, (tensors, _) in plans.items()}
    with (
        new_folder(target, sum(sizes.values())) as folder,
        progress_bar(total=sum(sizes.values()), unit="B", unit_scale=True, desc="converting") as bar,
    ):
        for name, (tensors, _) in plans.items():
            save_tensors(tensors, folder / name, PARTS[name].stem, progress=bar.update)
            for file in copied_files(parts[name].folder):
                shutil.copyfile(file, folder / name / file.name)
        records = {name: dataclasses.asdict(record) for name, (_, record) in plans.items()}
        (folder / RECORD_FILE).write_text(json.dumps(records, indent=1) + "\n")
        write_settings(folder, settings)
    left_out = {name: record.left_out_bytes for name, (_, record) in plans.items() if record.left_out}
    return Converted(sizes, left_out, absent)


def missing_files(parts: dict[str, ReleasedPart], settings: PipelineConfig | None = None) -> list[str]:
    """Names the parts that are not there and the tokenisers that are not.

    A bridge may be absent, and what the model does not use: where there are no `settings`, it uses all others.
    """
    optional = {BRIDGE}
    if settings is not None:
        optional = set() if settings.bridge.kind else {BRIDGE}
        optional |= {VAE} if settings.autoencoder.folder is None else set()
        optional |= {"mt5", "mclip"} if settings.text.encoder == "minilm" else set()
    absent = [f"{name}/" for name in PARTS if name not in parts and name not in optional]
    for name, part in parts.items():
        wanted = PARTS[name].tokenizer
        if wanted and not any((part.folder / file).is_file() for file in wanted):
            absent.append(f"{name}/{' or '.join(wanted)}")
    return absent


def plan(part: ReleasedPart, network: Network) -> tuple[dict[str, Tensor], Record]:
    """Chooses the tensors to convert, and records what exporting needs."""
    left_out = {key: tensor for key, tensor in part.tensors.items() if network.is_left_out(key)}
    # A second name of a tensor is not stored again, unless the network asks for it by that name.
    aliases = {
        key: first
        for key, first in part.record.aliases.items()
        if key not in left_out and first not in left_out and network.is_unused(network.known_as(key))
    }
    files = {file: [key for key in keys if key not in left_out] for file, keys in part.record.files.items()}
    record = dataclasses.replace(
        part.record,
        files={file: keys for file, keys in files.items() if keys},
        aliases=aliases,
        left_out=len(left_out),
        left_out_bytes=sum(map(tensor_bytes, left_out.values())),
    )
    kept = {key: tensor for key, tensor in part.tensors.items() if key not in left_out and key not in aliases}
    return kept, record
