"""Compares runs by how near their samples of captions come to the images: `python -m benchmarks.transitions`.

Made for the two kinds of jump between stages, renoising and the bridge: give the workdirs of runs that differ in it
alone, with as many training and solver steps. Leaves transitions.png and, with every figure, transitions.json.

python -m benchmarks.transitions runs/emoji_tiny runs/emoji_tiny_bridge runs/emoji_tiny_conv_bridge --out out
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags, logging

from benchmarks.timing import about
from nami_jax.checkpoints.checkpoint import CheckpointError, Checkpoints
from nami_jax.config import ConfigError
from nami_jax.data.examples import Example, open_data
from nami_jax.data.images import to_stage
from nami_jax.files.disk import written_whole
from nami_jax.planning.tables import table
from nami_jax.sampling.pictures import grid, save_png, to_images
from nami_jax.sampling.pipeline import NamiPipeline
from nami_jax.text.encoders import TextStates
from nami_jax.training.autoencoder.perceptual import load_perceptual, perceptual_distance
from nami_jax.weights import WeightsError

SHOWN = 16  # captions in the picture


class Result(NamedTuple):
    """The samples of one run, and their distances from the originals."""

    name: str
    originals: np.ndarray  # (N, H, W, 3)
    pixels: np.ndarray  # (N, H, W, 3), the first seed's
    squared: np.ndarray  # (seeds, N) mean squared error, images in [-1, 1]
    perceptual: np.ndarray  # (seeds, N)


def measure(workdir: Path, split: str, count: int, seeds: int) -> tuple[Result, list[Example]]:
    """Samples `count` captions of a split of a run's data, evenly spaced, with each of `seeds` seeds."""
    pipe = NamiPipeline.from_pretrained(workdir)
    with Checkpoints(workdir) as checkpoints:
        cfg = checkpoints.config(checkpoints.latest_step())
    data = open_data(cfg, pipe.autoencoder and pipe.autoencoder.fingerprint)
    source = (data.train if split == "train" else data.held_out)[0]
    indices = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)
    examples = [source.example(source[int(i)], None) for i in indices]
    decode = np.asarray if pipe.autoencoder is None else pipe.autoencoder.decode
    originals = decode(to_stage(np.stack([v.image for v in examples]), 1))
    text = TextStates(np.stack([v.embeds for v in examples]), np.stack([v.pooled for v in examples]))
    vgg, distance = load_perceptual(3), jax.jit(perceptual_distance)
    drawn = [np.clip(decode(np.asarray(pipe.sample_latents(text, data.empty, seed=s))), -1, 1) for s in range(seeds)]
    squared = [np.square(x - originals).mean((1, 2, 3)) for x in drawn]
    perceptual = [np.asarray(distance(vgg, originals, x.astype(np.float32))) for x in drawn]
    return Result(workdir.name, originals, drawn[0], np.array(squared), np.array(perceptual)), examples


def report(results: Sequence[Result]) -> str:
    """Returns a table with a row for each run: means over images and seeds, and the spread of the seeds' means."""
    rows = []
    for result in results:
        values = (result.squared, result.perceptual)
        shown = [f"{x.mean():.4f} ± {x.mean(axis=1).std():.4f}" for x in values]
        rows.append((result.name, *shown, f"{(result.squared < 0.1).mean():.0%}"))
    return table(("run", "squared error", "perceptual distance", "below 0.1"), rows)


def main(argv: list[str]) -> None:
    """Prints the table and saves a picture: originals, then each run's samples."""
    if len(argv) < 2:
        raise app.UsageError("pass the workdirs of runs to compare")
    logging.set_verbosity(logging.WARNING)
    args = flags.FLAGS
    try:
        measured = [measure(Path(workdir), args.split, args.images, args.seeds) for workdir in argv[1:]]
    except (CheckpointError, ConfigError, ModuleNotFoundError, WeightsError) as error:
        raise SystemExit(f"error: {error}") from error
    results, examples = [result for result, _ in measured], measured[0][1]
    print(f"{len(examples)} captions ({args.split}), {args.seeds} seeds\n\n{report(results)}")
    few = np.linspace(0, len(examples) - 1, min(SHOWN, len(examples))).round().astype(int)
    originals = to_images(results[0].originals[few])
    sheet = grid(
        [examples[i].caption for i in few],
        [originals, *(to_images(result.pixels[few]) for result in results)],
        f"originals, {', '.join(result.name for result in results)}",
    )
    path = Path(args.out) / "transitions.png"
    save_png(sheet, path, {"runs": [result.name for result in results]})
    facts = about() | {"split": args.split, "images": len(examples)}
    by_seed = {
        result.name: {
            "squared": result.squared.mean(axis=1).tolist(),
            "perceptual": result.perceptual.mean(axis=1).tolist(),
            "squared_below_0.1": (result.squared < 0.1).mean(axis=1).tolist(),
        }
        for result in results
    }
    with written_whole(path.with_suffix(".json")) as file:
        file.write_text(json.dumps({"about": facts, "means_by_seed": by_seed}, indent=1))
    print(path)


if __name__ == "__main__":
    flags.DEFINE_enum("split", "train", ["train", "held_out"], "which captions to sample")
    flags.DEFINE_integer("images", 96, "captions to sample, at most", lower_bound=1)
    flags.DEFINE_integer("seeds", 3, "samples of each", lower_bound=1)
    flags.DEFINE_string("out", "out", "folder for the picture")
    app.run(main)
