"""Settings of a run: frozen dataclasses made from an ml_collections file, and every check of what a user sets.

`configs/*.py` say what a run is, `Config.from_dict` checks it before any device is touched or anything is compiled,
and all other modules receive the dataclasses (never a ConfigDict, never flags).
"""

from nami_jax.config.evaluation_settings import EvaluationConfig
from nami_jax.config.flow_run import Config, DrawConfig, PipelineConfig, TrainConfig
from nami_jax.config.sampler_settings import (
    PRESET_PROMPTS,
    SAMPLE_PRESETS,
    Budget,
    PresetPrompt,
    SampleChanges,
    SampleConfig,
    preset_prompt,
    sample_preset,
)
from nami_jax.config.sections import (
    AutoencoderConfig,
    BridgeConfig,
    DataConfig,
    FlowConfig,
    MeshConfig,
    ModelConfig,
    TextConfig,
    require_side,
)
from nami_jax.config.settings import (
    ConfigError,
    Dtype,
    Settings,
    choices,
    fixed_fields,
    nearest,
    parse_interval,
    parse_scales,
    parse_steps,
    parse_taus,
    require,
    shown,
)

__all__ = [
    "PRESET_PROMPTS",
    "SAMPLE_PRESETS",
    "AutoencoderConfig",
    "BridgeConfig",
    "Budget",
    "Config",
    "ConfigError",
    "DataConfig",
    "DrawConfig",
    "Dtype",
    "EvaluationConfig",
    "FlowConfig",
    "MeshConfig",
    "ModelConfig",
    "PipelineConfig",
    "PresetPrompt",
    "SampleChanges",
    "SampleConfig",
    "Settings",
    "TextConfig",
    "TrainConfig",
    "choices",
    "fixed_fields",
    "nearest",
    "parse_interval",
    "parse_scales",
    "parse_steps",
    "parse_taus",
    "preset_prompt",
    "require",
    "require_side",
    "sample_preset",
    "shown",
]
