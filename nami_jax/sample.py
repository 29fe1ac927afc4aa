"""Draws pictures with a trained model: `python -m nami_jax.sample --checkpoint runs/emoji_tiny --prompt "red apple"`.

Writes one PNG per picture and, for more than one, a captioned `grid.png`; earlier ones are replaced only with
--overwrite. Prompt, seed, steps and checkpoint are stored in each PNG's metadata.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from nami_jax.config import (
    SAMPLE_PRESETS,
    ConfigError,
    MeshConfig,
    ModelConfig,
    SampleConfig,
    choices,
    parse_interval,
    parse_scales,
    parse_steps,
    parse_taus,
)
from nami_jax.terminal.command_line import parse_flags, run_command

if TYPE_CHECKING:
    from PIL import Image


PARSERS: dict[str, Callable[[Any], Any]] = {
    "steps": parse_steps,
    "guidance_scale": parse_scales,
    "guidance_interval": parse_interval,
    "taus": parse_taus,
}


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("checkpoint", None, "workdir of a training run, or folder of converted weights", required=True)
    flags.DEFINE_integer("step", None, "which checkpoint of a run; the newest if not given")
    flags.DEFINE_enum("dtype", None, choices(ModelConfig, "dtype"), "compute type; as configured if not given")
    flags.DEFINE_bool("keep_encoder", True, "--nokeep_encoder frees the text encoder's memory before sampling")
    flags.DEFINE_multi_string("prompt", None, "what to draw; repeat it for several", required=True)
    flags.DEFINE_string("negative_prompt", "", "what guidance steers away from")
    flags.DEFINE_enum(
        "preset", None, list(SAMPLE_PRESETS), "named settings, overridden one by one by --steps, --solver, ..."
    )
    flags.DEFINE_list("steps", None, "solver steps per stage, e.g. 10,10,10; the model's own if not given")
    flags.DEFINE_list(
        "guidance_scale", None, "one number, or one per stage: 3,1,1; 1 means none; the model's own if not given"
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
    flags.DEFINE_integer("height", None, "pixels; as trained if not given")
    flags.DEFINE_integer("width", None, "pixels; as trained if not given")
    flags.DEFINE_integer("seed", 0, "seed of the noise")
    flags.DEFINE_integer("num_images", 1, "pictures per prompt")
    flags.DEFINE_integer("batch_size", 32, "pictures drawn at once")
    flags.DEFINE_integer("fsdp", 1, "devices that share the weights, each with pictures of its own")
    flags.DEFINE_integer("tensor", 1, "devices that share each layer's heads and channels")
    flags.DEFINE_integer("sequence", 1, "devices that share the tokens of a picture, for large ones")
    flags.DEFINE_string("out", "out", "folder for the PNGs")
    flags.DEFINE_bool("overwrite", False, "replace pictures of the same names; if not, new ones get a number")


def given_settings(args: flags.FlagValues) -> dict[str, Any]:
    """Returns the sampler's settings among the flags, None where they are not given."""
    given = {field.name: args[field.name].value for field in dataclasses.fields(SampleConfig)}
    for name, parse in PARSERS.items():
        given[name] = None if given[name] is None else parse(given[name])
    return given


def file_name(number: int, prompt: str, seed: int) -> str:
    """Returns e.g. "000-red-apple-seed0.png"."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:40]
    return f"{number:03d}-{words}-seed{seed}.png"


def save_pictures(
    pictures: "Sequence[Image.Image]", prompts: Sequence[str], out: Path, about: dict, overwrite: bool = False
) -> None:
    """Saves each picture, and a grid of all if there are several, with `about` and its prompt as metadata.

    Pictures that are there already are replaced only if `overwrite`; otherwise the new ones' names get a number.
    """
    from nami_jax.sampling.pictures import grid, save_beside, save_png

    def save(picture: "Image.Image", name: str, **of_it: object) -> None:
        path = out / name
        if overwrite:
            save_png(picture, path, of_it | about)
        else:
            path = save_beside(picture, path, of_it | about)
        print(path)

    for i, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        save(picture, file_name(i, prompt, about["seed"]), prompt=prompt)
    if len(pictures) > 1:
        save(grid(prompts, [pictures]), "grid.png", prompts=prompts)


def main(argv: list[str]) -> None:
    """Loads the checkpoint, draws and saves."""
    # Not at the top: jax, orbax and the rest take seconds, and `--help` or a mistyped flag is answered without them.
    from nami_jax.checkpoints.checkpoint import CheckpointError
    from nami_jax.checkpoints.orbax import mute_orbax
    from nami_jax.files.disk import explain, print_anything
    from nami_jax.files.output_folder import output_folder
    from nami_jax.parallel.kept_programs import keep_on_disk
    from nami_jax.sampling.pipeline import NamiPipeline
    from nami_jax.weights import WeightsError

    del argv
    args = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    print_anything()
    mute_orbax()
    keep_on_disk()
    try:
        given = given_settings(args)
        pipe = NamiPipeline.from_pretrained(
            args.checkpoint,
            step=args.step,
            dtype=args.dtype,
            keep_encoder=args.keep_encoder,
            mesh=MeshConfig(args.fsdp, args.tensor, args.sequence),
        )
        settings = pipe.settings(args.preset, **given)
        about = dataclasses.asdict(settings) | {"negative_prompt": args.negative_prompt, "seed": args.seed}
        with output_folder(Path(args.out), field="out"):
            pictures = pipe(
                args.prompt,
                height=args.height,
                width=args.width,
                num_images=args.num_images,
                batch_size=args.batch_size,
                progress=True,
                **about,
            )
            prompts = [prompt for prompt in args.prompt for _ in range(args.num_images)]
            save_pictures(pictures, prompts, Path(args.out), {**about, "checkpoint": pipe.source}, args.overwrite)
    except (ConfigError, CheckpointError, WeightsError, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    except OSError as error:
        raise SystemExit(f"error: {explain(error)}") from error


def cli() -> None:
    """Runs the command."""
    run_command(main, define_flags, __doc__, functools.partial(parse_flags, remedy="Pass prompts with --prompt"))


if __name__ == "__main__":
    cli()
