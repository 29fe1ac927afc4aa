"""Draws the pictures of an evaluation, each caption with each seed, and keeps them on disk as they are made."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nami_jax.config import ConfigError, shown
from nami_jax.data.images import BrokenImageError, open_image
from nami_jax.files.disk import written_whole
from nami_jax.files.json_files import read_json
from nami_jax.sampling.pictures import save_png
from nami_jax.sampling.prompts import picture_batches
from nami_jax.terminal.progress import progress_bar

MANIFEST = "samples.json"
Draw = Callable[[np.ndarray, int], np.ndarray]  # which captions (B,), seed -> (B, H, W, 3) uint8


class KeptPictures:
    """The folder of an evaluation's pictures: `samples.json` says what they are, `samples/SEED/NUMBER.png` they are."""

    def __init__(self, folder: Path, about: Mapping[str, Any], captions: Sequence[str]):
        """Opens or begins the folder.

        Args:
            folder: for the pictures of one model, one split and one choice of settings.
            about: these: what makes the pictures, seeds left out.
            captions: (N,) of the pictures.

        Raises:
            ConfigError: it holds pictures made otherwise, or a damaged file.
        """
        self._folder, self._captions = folder, captions
        path, wanted = folder / MANIFEST, json.loads(json.dumps({**about, "captions": list(captions)}))
        if path.is_file():
            found = read_json(path, f"Remove {folder}, or set another --out")
            differing = next(_differing(found, wanted), None)
            if differing is not None:
                name, there, here = differing
                raise ConfigError(
                    f"out = {shown(str(folder))}: it holds pictures made with {name} = {shown(there)}, not "
                    f"{shown(here)}. Set another --out, or remove that folder."
                )
            return
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as unfinished:
            unfinished.write_text(json.dumps(wanted, indent=1, ensure_ascii=False) + "\n")

    def path(self, seed: int, number: int) -> Path:
        """Returns where a picture is kept."""
        return self._folder / "samples" / str(seed) / f"{number:06d}.png"

    def load(self, seed: int, number: int) -> np.ndarray | None:
        """Returns a picture (H, W, 3) uint8, or None if it is not there or not whole."""
        try:
            return np.asarray(open_image(self.path(seed, number).read_bytes()))
        except (FileNotFoundError, BrokenImageError):
            return None

    def save(self, seed: int, number: int, pixels: np.ndarray) -> None:
        """Keeps a picture (H, W, 3) uint8."""
        about = {"prompt": self._captions[number], "seed": seed}
        save_png(Image.fromarray(pixels), self.path(seed, number), about)


def draw_all(
    draw: Draw,
    count: int,
    seeds: Sequence[int],
    batch_size: int,
    kept: KeptPictures | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Draws each of `count` captions with each seed, those that are not kept already.

    Args:
        draw: draws some captions with one seed.
        count: of captions.
        seeds: of the noise.
        batch_size: pictures at once, at most.
        kept: where pictures are looked for, and put as soon as they are made; None: nowhere.
        progress: show a bar.

    Returns:
        (seeds, count, H, W, 3) uint8.
    """
    drawn: dict[tuple[int, int], np.ndarray] = {}
    with progress_bar(total=count * len(seeds), desc="sampling", unit="picture", disable=not progress) as bar:
        for seed in seeds:
            missing = []
            for number in range(count):
                found = None if kept is None else kept.load(seed, number)
                if found is None:
                    missing.append(number)
                else:
                    drawn[seed, number] = found
            bar.update(count - len(missing))
            for numbers, pictures in _batches(draw, np.array(missing, int), seed, batch_size):
                for number, picture in zip(numbers.tolist(), pictures, strict=True):
                    drawn[seed, number] = picture
                    if kept is not None:
                        kept.save(seed, number, picture)
                bar.update(len(numbers))
    return np.stack([[drawn[seed, number] for number in range(count)] for seed in seeds])


def _batches(draw: Draw, numbers: np.ndarray, seed: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if not len(numbers):
        return
    for some, wanted in picture_batches(len(numbers), size, progress=False):
        yield numbers[some[:wanted]], draw(numbers[some], seed)[:wanted]


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields the name of each setting that differs, a.b of b in a, with both values."""
    for name, value in wanted.items():
        there = found.get(name)
        if isinstance(value, dict) and isinstance(there, dict):
            yield from _differing(there, value, f"{prefix}{name}.")
        elif there != value:
            yield f"{prefix}{name}", there, value
