"""Draws pictures with a trained model: `python -m nami_jax.sample --checkpoint runs/emoji_tiny --prompt "red apple"`.

Writes one PNG per picture and, for more than one, a captioned `grid.png`. Prompt, seed, steps and checkpoint stand in
each PNG's metadata.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from PIL import Image

from nami_jax.checkpoint import CheckpointError
from nami_jax.config import ConfigError, parse_steps
from nami_jax.pictures import grid, save_png
from nami_jax.pipeline import NamiPipeline


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("checkpoint", None, "workdir of a training run, e.g. runs/emoji_tiny", required=True)
    flags.DEFINE_integer("step", None, "which checkpoint; the newest if not given")
    flags.DEFINE_multi_string("prompt", None, "what to draw; repeat it for several", required=True)
    flags.DEFINE_string("negative_prompt", "", "what guidance leads away from")
    flags.DEFINE_list("steps", None, "solver steps per stage, e.g. 10,10,10; as in the run's config if not given")
    flags.DEFINE_float("guidance_scale", None, "1 is no guidance; as in the run's config if not given")
    flags.DEFINE_enum("grid", None, ["linear", "released"], "time grid")
    flags.DEFINE_enum("solver", None, ["euler", "heun"], "ODE solver")
    flags.DEFINE_integer("height", None, "pixels; as trained if not given")
    flags.DEFINE_integer("width", None, "pixels; as trained if not given")
    flags.DEFINE_integer("seed", 0, "of the noise")
    flags.DEFINE_integer("num_images", 1, "pictures of each prompt")
    flags.DEFINE_integer("batch_size", 32, "pictures drawn at once")
    flags.DEFINE_string("out", "samples", "folder for the PNGs")


def file_name(number: int, prompt: str, seed: int) -> str:
    """Returns e.g. "000-red-apple-seed0.png"."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:40]
    return f"{number:03d}-{words}-seed{seed}.png"


def save_pictures(pictures: Sequence[Image.Image], prompts: Sequence[str], out: Path, about: dict) -> None:
    """Saves each picture, and a grid of all if there are several, with `about` and its prompt as metadata."""
    for i, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        path = out / file_name(i, prompt, about["seed"])
        save_png(picture, path, {"prompt": prompt, **about})
        print(path)
    if len(pictures) > 1:
        save_png(grid(prompts, [pictures]), out / "grid.png", {"prompts": prompts, **about})
        print(out / "grid.png")


def main(argv: list[str]) -> None:
    """Loads the checkpoint, draws and saves."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}: prompts are given as --prompt")
    args = flags.FLAGS
    try:
        steps = None if args.steps is None else parse_steps(args.steps)
        pipe = NamiPipeline.from_pretrained(args.checkpoint, step=args.step)
        settings = {
            "negative_prompt": args.negative_prompt,
            "steps": pipe.cfg.sample.steps if steps is None else steps,
            "guidance_scale": pipe.cfg.sample.guidance_scale if args.guidance_scale is None else args.guidance_scale,
            "grid": args.grid or pipe.cfg.sample.grid,
            "solver": args.solver or pipe.cfg.sample.solver,
            "seed": args.seed,
        }
        pictures = pipe(
            args.prompt, height=args.height, width=args.width, num_images=args.num_images,
            batch_size=args.batch_size, progress=True, **settings,
        )  # fmt: skip
    except (ConfigError, CheckpointError, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    prompts = [prompt for prompt in args.prompt for _ in range(args.num_images)]
    save_pictures(pictures, prompts, Path(args.out), {**settings, "checkpoint": pipe.source})


if __name__ == "__main__":
    define_flags()
    app.run(main)
