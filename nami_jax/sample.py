"""Draws pictures with a trained model: `python -m nami_jax.sample --checkpoint runs/emoji_tiny --prompt "red apple"`.

Writes one PNG per picture and, for more than one, a captioned `grid.png`; earlier ones are replaced only with
--overwrite. Prompt, seed, steps and checkpoint are stored in each PNG's metadata.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging

from nami_jax.config import ConfigError
from nami_jax.terminal.command_line import parse_flags, run_command
from nami_jax.terminal.sampler_flags import define_model_flags, define_sampler_flags, given_mesh, given_settings

if TYPE_CHECKING:
    from PIL import Image


def define_flags() -> None:
    """Defines the command's flags."""
    define_model_flags()
    flags.DEFINE_bool("keep_encoder", True, "--nokeep_encoder frees the text encoder's memory before sampling")
    flags.DEFINE_multi_string("prompt", None, "what to draw; repeat it for several", required=True)
    flags.DEFINE_string("negative_prompt", "", "what guidance steers away from")
    define_sampler_flags()
    flags.DEFINE_integer("height", None, "pixels; as trained if not given")
    flags.DEFINE_integer("width", None, "pixels; as trained if not given")
    flags.DEFINE_integer("seed", 0, "seed of the noise")
    flags.DEFINE_integer("num_images", 1, "pictures per prompt")
    flags.DEFINE_integer("batch_size", 32, "pictures drawn at once")
    flags.DEFINE_string("out", "out", "folder for the PNGs")
    flags.DEFINE_bool("overwrite", False, "replace pictures of the same names; if not, new ones get a number")


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
            mesh=given_mesh(args),
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
