"""From a network to our folder of converted weights, which samples wherever it is copied."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.checkpoints.runs import Run
from nami_jax.config import ConfigError, ModelConfig, PipelineConfig
from nami_jax.models.bridge import AnyBridge
from nami_jax.models.nami import Nami
from nami_jax.release.conversion import Converted
from nami_jax.release.folders import new_folder, require_new
from nami_jax.release.released_parts import PARTS, copied_files
from nami_jax.terminal.progress import progress_bar
from nami_jax.text.encoder_files import released_folders
from nami_jax.weights import Tensor, WeightsError, open_tensors, save_tensors, tensor_bytes
from nami_jax.weights.converted import BRIDGE, RECIPE_FILE, TRANSFORMER, VAE, write_settings
from nami_jax.weights.nami_keys import export_bridge, export_nami, released_transformer_config

TEXT_PARTS = ("mt5", "mclip")


class Rounded(NamedTuple):
    """A tensor in a narrower type, rounded part by part as it is read."""

    tensor: Tensor
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """As it was."""
        return self.tensor.shape

    def __getitem__(self, index: Any) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Reads a part."""
        return self.tensor[index].astype(self.dtype)


def write_network(
    networks: Mapping[str, Mapping[str, Tensor]],
    cfg: PipelineConfig,
    source: str | Path,
    target: Path,
    *,
    dtype: str | None = None,
    allow_missing: bool = False,
    recipe: Mapping[str, Any] | None = None,
) -> Converted:
    """Writes a network with what it draws with as a folder that `NamiPipeline` loads on any machine.

    Args:
        networks: tensors of the network and, if it has one, of its bridge, as `tensors_by_part` gives them.
        cfg: its settings; the folders that they name are copied.
        source: where it is from, for messages.
        target: a new folder.
        dtype: that all tensors are stored in; None: as they are.
        allow_missing: go on without an autoencoder or a text encoder that is not there.
        recipe: how it was trained, which is written beside it; None: nothing is said.

    Raises:
        ConfigError: `target` exists, or a part is missing.
        WeightsError: a part is damaged, or the disk is full.
    """
    require_new(target)
    folders = _frozen_folders(cfg)
    absent = [name for name, folder in folders.items() if not any(folder.glob("*.safetensors"))]
    if absent and not allow_missing:
        raise ConfigError(
            f"from = {str(source)!r}: was trained with {', '.join(str(folders[name]) for name in absent)}, which is "
            "not there. Put it there again, or convert the run without it with --allow_missing."
        )
    folders = {name: folder for name, folder in folders.items() if name not in absent}
    _require_frozen(cfg, folders)
    parts = dict(networks) | {name: open_tensors(folder) for name, folder in folders.items()}
    if dtype is not None:
        to = np.dtype(jnp.dtype(dtype))
        parts = {name: {key: Rounded(x, to) for key, x in part.items()} for name, part in parts.items()}
    sizes = {name: sum(map(tensor_bytes, tensors.values())) for name, tensors in parts.items()}
    with new_folder(target, sum(sizes.values())) as unfinished:
        write_folder(unfinished, parts, folder_settings(cfg))
        for name, folder in folders.items():
            for file in copied_files(folder):
                shutil.copyfile(file, unfinished / name / file.name)
        if recipe is not None:
            (unfinished / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n")
    return Converted(sizes, {}, [f"{name}/" for name in absent])


def copy_base(run: Run, target: Path) -> None:
    """Writes a run's network alone as a converted folder, for a LoRA that begins from it: both may then go on or go.

    Args:
        run: what the low-rank pairs are added to.
        target: a new folder.

    Raises:
        WeightsError: the disk is full, or cannot be written.
    """
    tensors = export_nami(run.model)
    with new_folder(target, sum(map(tensor_bytes, tensors.values()))) as folder:
        write_folder(folder, {TRANSFORMER: tensors}, folder_settings(run.cfg.pipeline))


def tensors_by_part(model: Nami, bridge: AnyBridge | None) -> dict[str, Mapping[str, Tensor]]:
    """Returns the tensors of a network and, if it has one, of its bridge, by part."""
    parts: dict[str, Mapping[str, Tensor]] = {TRANSFORMER: export_nami(model)}
    return parts if bridge is None else parts | {BRIDGE: export_bridge(bridge)}


def folder_settings(cfg: PipelineConfig) -> PipelineConfig:
    """Returns a run's settings to sample with as a folder of its parts has them, whose paths are below it."""
    text, autoencoder = cfg.text, cfg.autoencoder
    return dataclasses.replace(
        cfg,
        model=dataclasses.replace(cfg.model, lora_rank=None),
        text=dataclasses.replace(text, folder="." if text.encoder == "t5_bert" else None),
        autoencoder=dataclasses.replace(autoencoder, folder=None if autoencoder.folder is None else VAE),
    )


def write_folder(folder: Path, parts: Mapping[str, Mapping[str, Tensor]], settings: PipelineConfig) -> None:
    """Writes tensors, the settings to sample with and, where a release can express it, the network's config.json."""
    size = sum(tensor_bytes(tensor) for tensors in parts.values() for tensor in tensors.values())
    with progress_bar(total=size, unit="B", unit_scale=True, desc="converting") as bar:
        for name, tensors in parts.items():
            save_tensors(tensors, folder / name, PARTS[name].stem, progress=bar.update)
    config = _released_config(settings.model)
    if config is not None:
        (folder / TRANSFORMER / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_settings(folder, settings)


def _released_config(cfg: ModelConfig) -> dict[str, Any] | None:
    try:
        return released_transformer_config(cfg)
    except WeightsError:  # it is in pipeline.json, and such a folder is not exported
        return None


def _frozen_folders(cfg: PipelineConfig) -> dict[str, Path]:
    """Returns the folders of the networks that a run names and does not hold, by part."""
    folders = {} if cfg.autoencoder.folder is None else {VAE: Path(cfg.autoencoder.folder)}
    if cfg.text.encoder == "t5_bert":
        folders |= {name: Path(cfg.text.folder or "") / name for name in TEXT_PARTS}
    return folders


def _require_frozen(cfg: PipelineConfig, folders: Mapping[str, Path]) -> None:
    """Raises `ConfigError` or `WeightsError` if what is in these folders is not what the run can be sampled with."""
    if VAE in folders:
        Autoencoder.from_config(cfg.autoencoder, cfg.model)
    if not set(TEXT_PARTS) - set(folders):
        released_folders(cfg.text)
