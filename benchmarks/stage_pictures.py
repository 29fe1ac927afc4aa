"""Draws what each stage of a model ends in, as the README shows it: `python -m benchmarks.stage_pictures`.

One column for each prompt, the coarsest stage on top, every pixel enlarged to a square. Leaves emoji_stages.webp,
without loss, and in emoji_stages.json what it was drawn with.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging

from benchmarks.timing import about
from nami_jax.checkpoints.checkpoint import CheckpointError
from nami_jax.config import ConfigError
from nami_jax.files.disk import written_whole
from nami_jax.files.output_folder import output_folder
from nami_jax.parallel.kept_programs import keep_on_disk
from nami_jax.sampling.pictures import grid
from nami_jax.sampling.pipeline import NamiPipeline
from nami_jax.terminal.command_line import parse_flags
from nami_jax.weights import WeightsError

PROMPTS = (
    "a red apple, noto style",
    "a strawberry, twemoji style",
    "a pizza, glossy fluent style",
    "a dog face, noto style",
    "a tropical fish, flat fluent style",
    "a sunflower, twemoji style",
)


def draw(checkpoint: str, prompts: Sequence[str], seed: int, out: Path) -> Path:
    """Draws the prompts with a checkpoint and saves both files in `out`; returns where the picture is."""
    pipe = NamiPipeline.from_pretrained(checkpoint)
    facts = {"checkpoint": pipe.source, "prompts": list(prompts), "seed": seed}
    with output_folder(out, field="out"):
        sheet = grid(prompts, pipe(prompts, seed=seed, return_stages=True))
        with written_whole(out / "emoji_stages.webp") as file:
            sheet.save(file, "WEBP", lossless=True)
        with written_whole(out / "emoji_stages.json") as file:
            file.write_text(json.dumps({"about": about() | facts}, indent=1) + "\n")
    return out / "emoji_stages.webp"


def main(argv: list[str]) -> None:
    """Says where the picture is."""
    del argv
    args = flags.FLAGS
    logging.set_verbosity(logging.ERROR)
    keep_on_disk()
    try:
        print(draw(args.checkpoint, args.prompt, args.seed, Path(args.out)))
    except (CheckpointError, ConfigError, WeightsError, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error


def define_flags() -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_string("checkpoint", "emoji", "a run's workdir, folder of converted weights or name of a model")
    flags.DEFINE_multi_string("prompt", list(PROMPTS), "what to draw; repeat it for several")
    flags.DEFINE_integer("seed", 0, "seed of the noise")
    flags.DEFINE_string("out", "out", "folder for the picture and what it was drawn with")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)
