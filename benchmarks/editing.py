"""Measures what image-to-image, filling in and editing do to pictures: `python -m benchmarks.editing`.

The pictures are a model's own, of one text each; every way of changing them aims at another text. EfficientNet-Lite0's
features tell how near a result is to either: the cosine to the mean of the model's own pictures of that text.
Leaves editing.png and, with every figure, editing.json.

python -m benchmarks.editing runs/emoji_tiny --out out
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags, logging
from PIL import Image

from benchmarks.timing import about
from nami_jax.checkpoints.checkpoint import CheckpointError
from nami_jax.config import ConfigError, require
from nami_jax.evaluation.features import load_features
from nami_jax.files.disk import written_whole
from nami_jax.parallel.kept_programs import keep_on_disk
from nami_jax.planning.tables import table
from nami_jax.sampling.pictures import grid, save_png
from nami_jax.sampling.pipeline import NamiPipeline
from nami_jax.terminal.command_line import parse_flags
from nami_jax.weights import WeightsError

PAIRS = ("a red apple>a green apple", "a tangerine>a lemon", "a dog face>a cat face", "a strawberry>a banana")
MODELS_OWN = 8  # pictures of a text, whose mean features stand for it
FIRST_OTHER_SEED = 1000  # of these pictures


class Way(NamedTuple):
    """A way of changing a picture, as arguments of a call."""

    name: str
    strength: float
    edits: bool = False  # tells the call what the picture shows
    fills: bool = False  # draws the upper half alone


WAYS = (
    Way("image-to-image, strength 0.75", 0.75),
    Way("edit, strength 1", 1.0, edits=True),
    Way("edit, strength 0.75", 0.75, edits=True),
    Way("edit, strength 0.75, upper half", 0.75, edits=True, fills=True),
    Way("upper half filled in", 1.0, fills=True),
)


def changed(pipe: NamiPipeline, way: Way, pair: tuple[str, str], pictures: np.ndarray, seed: int) -> np.ndarray:
    """Changes pictures (N, H, W, 3) uint8 of the pair's first text to its second; returns the same shape."""
    mask = np.zeros(pictures.shape[1:3], bool)
    mask[: len(mask) // 2] = True
    given: dict[str, Any] = {"mask": mask} if way.fills else {}
    given |= {"edit": pair[0]} if way.edits else {}
    count = len(pictures)
    drawn = pipe([pair[1]] * count, image=list(pictures), strength=way.strength, seed=seed, **given)
    return _levels(drawn)


def nearness(features: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Returns the cosines (N,) of features (N, F) to those of a text (F,)."""
    return features @ centre / np.linalg.norm(features, axis=1) / np.linalg.norm(centre)


def figures(old: np.ndarray, new: np.ndarray, difference: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the figures of N pictures.

    Args:
        old: (N,) nearness to the old text.
        new: (N,) to the new one.
        difference: (N, H, W, 3) between the pictures and what they were, levels of 255.
    """
    upper, lower = np.split(difference, 2, axis=1)
    return {
        "to_old_text": old,
        "to_new_text": new,
        "nearer_to_new": (new > old).astype(float),
        "upper_half": upper.mean((1, 2, 3)),
        "lower_half": lower.mean((1, 2, 3)),
    }


def measure(pipe: NamiPipeline, pairs: Sequence[tuple[str, str]], count: int) -> tuple[list[dict[str, Any]], list[Any]]:
    """Changes `count` pictures of each pair in every way.

    Returns:
        A row for each way, of means over all pictures; and by pair one picture before and after each way.
    """
    judge, found, shown = load_features("efficientnet_lite0"), {way.name: [] for way in WAYS}, []
    for pair in pairs:
        sources = _levels(pipe([pair[0]], num_images=count))
        centres = [judge(_levels(pipe(text, num_images=MODELS_OWN, seed=FIRST_OTHER_SEED))).mean(0) for text in pair]
        shown.append([sources[0]])
        for way in WAYS:
            drawn = changed(pipe, way, pair, sources, seed=1)
            features, difference = judge(drawn), np.abs(drawn.astype(int) - sources)
            old, new = (nearness(features, centre) for centre in centres)
            found[way.name].append(figures(old, new, difference))
            shown[-1].append(drawn[0])
    rows = []
    for name, parts in found.items():
        means = {figure: float(np.concatenate([part[figure] for part in parts]).mean()) for figure in parts[0]}
        rows.append({"way": name} | means)
    return rows, shown


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table."""
    heads = ("way", "cosine to the old text", "to the new", "nearer to the new", "change above", "below")
    cells = []
    for row in rows:
        nearer = *(f"{row[name]:.2f}" for name in ("to_old_text", "to_new_text")), f"{row['nearer_to_new']:.0%}"
        cells.append((row["way"], *nearer, *(f"{row[name]:.1f}" for name in ("upper_half", "lower_half"))))
    return table(heads, cells)


def main(argv: list[str]) -> None:
    """Prints the table and saves a picture: each pair's first picture, and what each way made of it."""
    args, out = flags.FLAGS, Path(flags.FLAGS.out)
    logging.set_verbosity(logging.ERROR)
    keep_on_disk()
    try:
        require(len(argv) == 2, field="checkpoint", value=None, rule="is missing", remedy="Pass a run's workdir")
        pairs = [tuple(text.strip() for text in pair.split(">")) for pair in args.pair]
        require(
            all(len(pair) == 2 for pair in pairs),
            field="pair",
            value=args.pair,
            rule="must be an old and a new text with > between them",
            remedy=f"Set e.g. --pair '{PAIRS[0]}'",
        )
        pipe = NamiPipeline.from_pretrained(argv[1])
        rows, shown = measure(pipe, [(old, new) for old, new in pairs], args.images)
    except (CheckpointError, ConfigError, WeightsError, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    print(report(rows))
    captions = ["before", *(way.name for way in WAYS)]
    save_png(
        grid(captions, [[Image.fromarray(levels) for levels in line] for line in shown]),
        out / "editing.png",
        {"pairs": list(args.pair)},
    )
    with written_whole(out / "editing.json") as file:
        facts = about() | {"pairs": list(args.pair), "images": args.images, "checkpoint": pipe.source}
        file.write_text(json.dumps({"about": facts, "ways": rows}, indent=1))
    print(out / "editing.png")


def _levels(pictures: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures])


def define_flags() -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_multi_string("pair", list(PAIRS), "an old and a new text: 'a red apple>a green apple'")
    flags.DEFINE_integer("images", 8, "pictures of each pair", lower_bound=1)
    flags.DEFINE_string("out", "out", "folder for the picture and the figures")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=functools.partial(parse_flags, positional=1))
