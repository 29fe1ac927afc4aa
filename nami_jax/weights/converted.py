"""Folders of converted weights: `python -m nami_jax.convert` makes them, sampling and fine-tuning read them.

Such a folder has a folder of safetensors for each part, and the settings to sample with in `pipeline.json`.
"""

from pathlib import Path

from nami_jax.config import ConfigError, PipelineConfig
from nami_jax.files.json_files import read_json

PIPELINE_FILE = "pipeline.json"
BRIDGE = "bridge_flow"


def read_pipeline_config(folder: Path) -> PipelineConfig:
    """Reads `pipeline.json` of a folder of converted weights; raises `ConfigError` if it is damaged."""
    path = folder / PIPELINE_FILE
    fields = read_json(path, "Convert the release again")
    try:
        return PipelineConfig.from_dict(fields)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
