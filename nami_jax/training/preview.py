"""The pictures for watching a run: samples of fixed captions with fixed noise, growing sharper."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.config import Config
from nami_jax.data.examples import Data, Example, ExampleSource
from nami_jax.data.images import to_stage
from nami_jax.parallel.processes import is_main
from nami_jax.sampling.pictures import grid, save_png, stack, to_images
from nami_jax.sampling.sampler import Request, Sampler
from nami_jax.sampling.stage_programs import Networks
from nami_jax.text.encoders import TextStates


class Panel(NamedTuple):
    """Some captions of a split, and the images that they belong to."""

    title: str
    examples: list[Example]


class Preview:
    """Draws a grid of training and held-out captions, originals over samples, ever the same ones."""

    def __init__(self, cfg: Config, data: Data, codec: Autoencoder | None, sampler: Sampler):
        """Chooses the captions.

        Args:
            cfg: the run; `train.sample_images` training captions and a third as many held-out ones, evenly spaced in
                the first bucket that has both (of the first bucket and without held-out ones, if none has).
            data: what the run trains on.
            codec: makes pixels of the model's latents; None for a model of pixels.
            sampler: of the networks.
        """
        train, held_out = _same_size(data)
        self._panels = [_panel("training captions", train, cfg.train.sample_images)]
        if held_out is not None:
            some = _panel("held-out captions, never trained on", held_out, -(-cfg.train.sample_images // 3))
            self._panels.append(some)
        examples = [example for panel in self._panels for example in panel.examples]
        self._captions = [example.caption for example in examples]
        self._text = TextStates(np.stack([v.embeds for v in examples]), np.stack([v.pooled for v in examples]))
        self._latents = to_stage(np.stack([v.image for v in examples]), 1)
        self._cfg, self._empty, self._codec, self._sampler = cfg, data.empty, codec, sampler
        _, height, width, _ = self._latents.shape
        self._request = Request(height, width, cfg.train.seed, range(len(examples)))

    def compile(self, networks: Networks) -> None:
        """Compiles what drawing by such networks runs, arrays or ShapeDtypeStructs with shardings."""
        self._sampler.compile(networks, self._text, self._cfg.sample, self._request)
        if self._codec is not None:
            self._codec.compile_decoding(self._latents.shape)

    def draw(self, networks: Networks, step: int, folder: Path) -> Path:
        """Draws the grid of a step and returns its path in `folder`."""
        drawn = self._sampler(networks, self._text, self._empty, self._cfg.sample, self._request)
        path, seed, steps = folder / f"step_{step:07d}.png", self._cfg.train.seed, self._cfg.sample.steps
        about = {"captions": self._captions, "step": step, "seed": seed, "steps": steps}
        sheet = _sheet(self._panels, self._originals, self._pictures(drawn), step)
        if is_main():
            save_png(sheet, path, about)
        return path

    @functools.cached_property
    def _originals(self) -> list[Image.Image]:
        return self._pictures(self._latents)

    def _pictures(self, latents: np.ndarray) -> list[Image.Image]:
        return to_images(latents if self._codec is None else self._codec.decode(latents))


def _same_size(data: Data) -> tuple[ExampleSource, ExampleSource | None]:
    """Returns the first training and held-out sources whose images are of one size."""
    sizes = {source.example(source[0], None).image.shape: source for source in reversed(data.held_out)}
    for source in data.train:
        held_out = sizes.get(source.example(source[0], None).image.shape)
        if held_out is not None:
            return source, held_out
    return data.train[0], None


def _panel(title: str, source: ExampleSource, count: int) -> Panel:
    indices = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)
    return Panel(title, [source.example(source[int(i)], None) for i in indices])


def _sheet(panels: Sequence[Panel], originals: list[Image.Image], samples: list[Image.Image], step: int) -> Image.Image:
    sheets, first = [], 0
    for title, examples in panels:
        some = slice(first, first + len(examples))
        captions = [example.caption for example in examples]
        head = f"step {step}, {title}: originals above, samples below"
        sheets.append(grid(captions, [originals[some], samples[some]], head))
        first += len(examples)
    return stack(sheets)
