"""The flags that say which model draws, and how: those of every command that samples."""

import dataclasses
from collections.abc import Callable
from typing import Any

from absl import flags

from nami_jax.config import (
    SAMPLE_PRESETS,
    MeshConfig,
    ModelConfig,
    SampleConfig,
    choices,
    parse_interval,
    parse_scales,
    parse_steps,
    parse_taus,
)

PARSERS: dict[str, Callable[[Any], Any]] = {
    "steps": parse_steps,
    "guidance_scale": parse_scales,
    "guidance_interval": parse_interval,
    "taus": parse_taus,
}


def define_model_flags(checkpoint: str | None = None) -> None:
    """Defines which checkpoint draws, the default or one that must be given, in which type, on which devices."""
    flags.DEFINE_string(
        "checkpoint",
        checkpoint,
        "workdir of a training run, folder of converted weights, or name of a model that comes with nami_jax: emoji",
        required=checkpoint is None,
    )
    flags.DEFINE_integer("step", None, "which checkpoint of a run; the newest if not given")
    flags.DEFINE_enum("dtype", None, choices(ModelConfig, "dtype"), "compute type; as configured if not given")
    flags.DEFINE_integer("fsdp", 1, "devices that share the weights, each with pictures of its own")
    flags.DEFINE_integer("tensor", 1, "devices that share each layer's heads and channels")
    flags.DEFINE_integer("sequence", 1, "devices that share the tokens of a picture, for large ones")


def define_sampler_flags() -> None:
    """Defines the sampler's settings: each field of `SampleConfig`, and the presets."""
    flags.DEFINE_enum(
        "preset", None, list(SAMPLE_PRESETS), "named settings, overridden one by one by --steps, --solver, ..."
    )
    flags.DEFINE_list("steps", None, "solver steps per stage, e.g. 10,10,10; the model's own if not given")
    flags.DEFINE_list(
        "guidance_scale",
        None,
        "one number, or one per stage: 3,1,1; up to 1 means none; the model's own if not given",
    )
    flags.DEFINE_list("guidance_interval", None, "global times between which there is guidance, e.g. 0.2,0.9")
    flags.DEFINE_float("guidance_rescale", None, "0 to 1: how far guidance gives back the velocity's own spread")
    flags.DEFINE_bool("cfg_zero_star", None, "fit the unconditional velocity to the conditional one (CFG-Zero*)")
    flags.DEFINE_integer("zero_init_steps", None, "first steps that are left out, as if the velocity were 0")
    flags.DEFINE_enum("transition", None, choices(SampleConfig, "transition"), "jump between stages")
    flags.DEFINE_enum("grid", None, choices(SampleConfig, "grid"), "time grid")
    flags.DEFINE_float("shift", None, "above 1: shorter steps at the start of each stage; below: at its end")
    flags.DEFINE_string("taus", None, 'local times of each stage in place of steps, e.g. "1,0.5,0;1,0.4,0;1,0"')
    flags.DEFINE_enum("solver", None, choices(SampleConfig, "solver"), "ODE solver")


def given_settings(args: flags.FlagValues) -> dict[str, Any]:
    """Returns the sampler's settings among the flags, None where they are not given."""
    given = {field.name: args[field.name].value for field in dataclasses.fields(SampleConfig)}
    for name, parse in PARSERS.items():
        given[name] = None if given[name] is None else parse(given[name])
    return given


def given_mesh(args: flags.FlagValues) -> MeshConfig:
    """Returns how the flags arrange the devices."""
    return MeshConfig(args.fsdp, args.tensor, args.sequence)
