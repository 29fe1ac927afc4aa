"""Folders of converted weights: `python -m nami_jax.convert` makes them, sampling and fine-tuning read them.

Such a folder has a folder of safetensors for each part, and the settings to sample with in `pipeline.json`. Paths in
that file are below the folder.
"""

import dataclasses
import json
import os
from pathlib import Path

from nami_jax.config import ConfigError, PipelineConfig
from nami_jax.files.json_files import read_json

PIPELINE_FILE = "pipeline.json"
RECIPE_FILE = "recipe.json"  # how the run was trained that a folder was made of
TRANSFORMER, BRIDGE, VAE = "transformer", "bridge_flow", "vae"
SHIPPED = Path(__file__).parents[1] / "pretrained"  # a converted folder for each model that comes with nami_jax


def shipped_models(home: Path = SHIPPED) -> list[str]:
    """Returns the names of the models that come with nami_jax."""
    return sorted(path.parent.name for path in home.glob(f"*/{PIPELINE_FILE}"))


def find_folder(name: str | Path, home: Path = SHIPPED) -> Path:
    """Returns the folder that is meant: a path to something that exists, else the model of that name in `home`.

    What is neither is returned as a path.
    """
    path = Path(name)
    return home / path if not os.path.lexists(path) and str(path) in shipped_models(home) else path


def read_pipeline_config(folder: Path) -> PipelineConfig:
    """Reads `pipeline.json` of a folder of converted weights; raises `ConfigError` if it is damaged."""
    path = folder / PIPELINE_FILE
    fields = read_json(path, "Convert the release again")
    try:
        return PipelineConfig.from_dict(fields)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def write_settings(folder: Path, cfg: PipelineConfig) -> None:
    """Writes `pipeline.json`, whose paths are below `folder`."""
    (folder / PIPELINE_FILE).write_text(json.dumps(cfg.to_dict(), indent=2) + "\n")


def inside(cfg: PipelineConfig, folder: Path) -> PipelineConfig:
    """Returns the settings of a converted folder with the paths in them made absolute."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(folder.absolute() / path)

    return dataclasses.replace(
        cfg,
        text=dataclasses.replace(cfg.text, folder=absolute(cfg.text.folder)),
        autoencoder=dataclasses.replace(cfg.autoencoder, folder=absolute(cfg.autoencoder.folder)),
    )


def require_parts(folder: Path, cfg: PipelineConfig) -> None:
    """Raises `ConfigError` if a converted folder lacks a part that drawing with these settings of it needs."""
    wanted = [TRANSFORMER, None if cfg.bridge.kind is None else BRIDGE, cfg.autoencoder.folder]
    missing = [f"{part}/" for part in wanted if part is not None and not any((folder / part).glob("*.safetensors"))]
    if missing:
        raise ConfigError(
            f"{folder} lacks {', '.join(missing)}. `python -m nami_jax.convert --from SOURCE --to NEW` makes a whole "
            "folder of the run or the release that it came from."
        )
