"""From our folder, from a training run or from a network in memory to the layout of a release."""

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from nami_jax.checkpoints.runs import load_run
from nami_jax.config import ConfigError, ModelConfig, PipelineConfig, require
from nami_jax.release.folders import new_folder, require_new
from nami_jax.release.network_folders import folder_settings, tensors_by_part
from nami_jax.release.pickles import import_torch, save_pickle
from nami_jax.release.released_parts import PARTS, Record, copied_files, read_records
from nami_jax.terminal.progress import progress_bar
from nami_jax.weights import Tensor, WeightsError, open_tensors, save_tensors, tensor_bytes, write_tensors
from nami_jax.weights.converted import (
    BRIDGE,
    PIPELINE_FILE,
    TRANSFORMER,
    read_pipeline_config,
    write_settings,
)
from nami_jax.weights.nami_keys import released_transformer_config
from nami_jax.weights.tensors import write_index

Progress = Callable[[int], object]
DIFFUSERS = "0.30.0"  # the first with FLUX, whose classes these are
LOADED_BY = {
    "transformer": ("diffusers", "FluxTransformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "mt5": ("transformers", "MT5EncoderModel"),
    "mclip": ("transformers", "BertModel"),
}


def export_release(source: Path, target: Path, *, as_safetensors: bool = False) -> None:
    """Writes a converted folder as the release that it came from: the same tensors, bit for bit, in the same files.

    Args:
        source: a folder that `convert_release` made.
        target: a new folder.
        as_safetensors: write safetensors files only, which needs no torch.

    Raises:
        ConfigError: `target` exists, `source` contains no converted weights, or its bridge has a form that no release
            has.
        WeightsError: a file is damaged, `source` has other tensors than its release.json says, or the release's layout
            cannot express its network.
        ModuleNotFoundError: pickles are to be written, and torch is not installed.
    """
    require_new(target)
    names = [name for name in PARTS if (source / name).is_dir()]
    if "transformer" not in names:
        raise ConfigError(f"from = {str(source)!r}: contains no transformer/. Pass a folder made by nami_jax.convert.")
    recorded = read_records(source)
    settings = None if recorded or not (source / PIPELINE_FILE).is_file() else read_pipeline_config(source)
    if settings is not None:  # converted from a run
        _require_released_bridge(settings.bridge.kind)
        released_transformer_config(settings.model)
    records = {} if as_safetensors else recorded
    tensors = {name: open_tensors(source / name) for name in names}
    for name in names:
        if name in records:
            _require_recorded(name, records[name], tensors[name])
    if any(file.endswith(".bin") for name in records for file in records[name].files):
        import_torch()  # before anything is written
    size = sum(tensor_bytes(tensor) for part in tensors.values() for tensor in part.values())
    with (
        new_folder(target, size) as folder,
        progress_bar(total=size, unit="B", unit_scale=True, desc="exporting") as bar,
    ):
        for name in names:
            write_part(folder, name, tensors[name], records.get(name), bar.update)
            for file in copied_files(source / name):
                (folder / name).mkdir(exist_ok=True)
                shutil.copyfile(file, folder / name / file.name)
        write_model_index(folder, names)
        if settings is not None:
            write_settings(folder, settings)


def export_run(workdir: Path, target: Path, *, step: int | None = None, as_safetensors: bool = False) -> None:
    """Writes the weights of a training run in the layout of a release: `transformer/` and, if there is one, the bridge.

    Args:
        workdir: of the run.
        target: a new folder.
        step: which checkpoint; None takes the newest.
        as_safetensors: write safetensors files instead of pickles, which needs no torch.

    Raises:
        CheckpointError: there is no finished checkpoint, or it cannot be read.
        ConfigError: `target` exists, or the run's bridge has a form that no release has.
        WeightsError: the release's layout cannot express this network.
        ModuleNotFoundError: pickles are to be written, and torch is not installed.
    """
    run = load_run(workdir, step)
    _require_released_bridge(run.cfg.bridge.kind)
    parts, settings = tensors_by_part(run.model, run.bridge), folder_settings(run.cfg.pipeline)
    export_network(target, parts, run.model.cfg, settings, as_safetensors=as_safetensors)


def _require_released_bridge(kind: str | None) -> None:
    require(
        kind != "conv",
        field="bridge.kind",
        value=kind,
        rule="a release can only contain a bridge of kind 'full'",
        remedy="Export a run with a bridge of that kind, or with none, or convert it without --export",
    )


def export_network(
    target: Path,
    parts: Mapping[str, Mapping[str, Tensor]],
    cfg: ModelConfig,
    settings: PipelineConfig | None = None,
    *,
    as_safetensors: bool = False,
) -> None:
    """Writes a network in the layout of a release: `transformer/` and, if there is one, the bridge.

    Args:
        target: a new folder.
        parts: tensors by part, as `tensors_by_part` gives them.
        cfg: the network's sizes.
        settings: written beside them, for what a release does not say; None: nothing is.
        as_safetensors: write safetensors files instead of pickles, which needs no torch.

    Raises:
        ConfigError: `target` exists.
        WeightsError: the release's layout cannot express this network.
        ModuleNotFoundError: pickles are to be written, and torch is not installed.
    """
    require_new(target)
    config = released_transformer_config(cfg)
    records = {} if as_safetensors else {name: Record({PARTS[name].pickle: list(parts[name])}) for name in parts}
    if records:
        import_torch()  # before anything is written
    size = sum(tensor_bytes(tensor) for part in parts.values() for tensor in part.values())
    with (
        new_folder(target, size) as folder,
        progress_bar(total=size, unit="B", unit_scale=True, desc="exporting") as bar,
    ):
        for name, part in parts.items():
            write_part(folder, name, part, records.get(name), bar.update)
        (folder / TRANSFORMER / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        write_model_index(folder, parts)
        if settings is not None:
            write_settings(folder, settings)


def write_model_index(folder: Path, names: Collection[str]) -> None:
    """Writes `model_index.json`: which class of which library loads each part, as diffusers has it.

    The pipeline's own class is ours: diffusers has none that runs stages.
    """
    found = {name: list(LOADED_BY[name]) for name in LOADED_BY if name in names}
    index = {"_class_name": "NamiPipeline", "_diffusers_version": DIFFUSERS, **found}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_part(
    release: Path, name: str, tensors: Mapping[str, Tensor], record: Record | None, progress: Progress
) -> None:
    """Writes the weights of one part.

    Args:
        release: the folder of the release.
        name: of the part.
        tensors: key -> tensor.
        record: the files to write, and their index; None: safetensors by the usual names.
        progress: called with the bytes of each piece once it is written.
    """
    if record is None:
        folder, stem = (release, BRIDGE) if name == BRIDGE else (release / name, PARTS[name].stem)
        save_tensors(tensors, folder, stem, progress=progress)
        return
    for file, keys in record.files.items():
        path = release / file
        path.parent.mkdir(parents=True, exist_ok=True)
        named = {record.prefix + key: tensors[key] for key in keys if key not in record.aliases}
        aliases = {record.prefix + key: record.prefix + record.aliases[key] for key in keys if key in record.aliases}
        if path.suffix == ".bin":
            save_pickle(named, path, aliases, progress)
        else:
            write_tensors(named, path, progress)
    if record.index is not None:
        homes = {record.prefix + key: Path(file).name for file, keys in record.files.items() for key in keys}
        write_index(homes, tensors, release / record.index)


def _require_recorded(name: str, record: Record, tensors: Mapping[str, Tensor]) -> None:
    recorded = {key for keys in record.files.values() for key in keys}
    stray = sorted((recorded - record.aliases.keys()) ^ tensors.keys())
    if stray:
        raise WeightsError(
            f"{name}: release.json and the weights differ in {', '.join(stray[:5])}{' ...' if len(stray) > 5 else ''}. "
            "Convert again, or export with --format safetensors."
        )
