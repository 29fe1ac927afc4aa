"""The pictures for watching a run: samples of fixed captions with fixed noise, growing sharper."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from nami_jax.config import Config
from nami_jax.data.examples import Data, Example, ExampleSource
from nami_jax.data.images import to_stage
from nami_jax.parallel.processes import is_main
from nami_jax.sampling.pictures import grid, save_png, stack, to_images
from nami_jax.sampling.sampler import Networks, Request, Sampler
from nami_jax.text.encoders import TextStates

Decode = Callable[[np.ndarray], np.ndarray]  # latents (B, h, w, C) -> pixels (B, H, W, 3) in [-1, 1]


class Panel(NamedTuple):
    """Some captions of a split, and the images that they belong to."""

    title: str
    examples: list[Example]


def make_preview(
    cfg: Config, data: Data, decode: Decode, folder: Path, sampler: Sampler
) -> Callable[[Networks, int], Path]:
    """Returns (networks, step) -> path of a grid: training and held-out captions, originals over samples.

    Args:
        cfg: the run; `train.sample_images` training captions and a third as many held-out ones, evenly spaced in the
            first bucket that has both (of the first bucket and without held-out ones, if none has).
        data: what the run trains on.
        decode: makes pixels of the model's latents; the identity for a model of pixels.
        folder: where the grids go.
        sampler: of the networks.
    """
    train, held_out = _same_size(data)
    panels = [_panel("training captions", train, cfg.train.sample_images)]
    if held_out is not None:
        panels.append(_panel("held-out captions, never trained on", held_out, -(-cfg.train.sample_images // 3)))
    examples = [example for panel in panels for example in panel.examples]
    captions = [example.caption for example in examples]
    text = TextStates(np.stack([v.embeds for v in examples]), np.stack([v.pooled for v in examples]))
    latents = to_stage(np.stack([v.image for v in examples]), 1)
    originals = to_images(decode(latents))
    request = Request(latents.shape[1], latents.shape[2], cfg.train.seed, range(len(captions)))

    def preview(networks: Networks, step: int) -> Path:
        drawn = sampler(networks, text, data.empty, cfg.sample, request)
        path = folder / f"step_{step:07d}.png"
        about = {"captions": captions, "step": step, "seed": cfg.train.seed, "steps": cfg.sample.steps}
        sheet = _sheet(panels, originals, to_images(decode(np.asarray(drawn))), step)
        if is_main():
            save_png(sheet, path, about)
        return path

    return preview


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
