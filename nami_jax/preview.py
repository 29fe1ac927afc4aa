"""The pictures by which a person watches a run: samples of fixed captions with fixed noise, growing sharper."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from PIL import Image

from nami_jax.config import Config
from nami_jax.data.source import CaptionedImages
from nami_jax.models.nami import abstract_model
from nami_jax.pictures import grid, save_png, stack, to_images
from nami_jax.sampler import sample_latents
from nami_jax.text import TextTable

Panel = tuple[str, list[str], list[Image.Image]]  # title, captions, originals


def make_preview(
    cfg: Config, train: CaptionedImages, held_out: CaptionedImages, table: TextTable, folder: Path
) -> Callable[[Any, int], Path]:
    """Returns (parameters, step) -> path of a grid: training captions and held-out ones, originals above samples.

    Args:
        cfg: the run; `train.sample_images` training captions and a third as many held-out ones, evenly spaced.
        train: the training split.
        held_out: the held-out split.
        table: text states of all their captions.
        folder: where the grids go.
    """
    panels: list[Panel] = [
        _panel("training captions", train, cfg.train.sample_images),
        _panel("held-out captions, never trained on", held_out, -(-cfg.train.sample_images // 3)),
    ]
    captions = [caption for _, captions, _ in panels for caption in captions]
    text, graphdef = table.lookup(captions), abstract_model(cfg.model)[0]

    def preview(params: Any, step: int) -> Path:
        pixels = sample_latents(
            nnx.merge(graphdef, params), text, table.empty, cfg.sample, height=cfg.data.side, width=cfg.data.side,
            seed=cfg.train.seed, numbers=range(len(captions)), sigma_ends=cfg.flow.sigma_ends,
        )  # fmt: skip
        samples = to_images(np.asarray(pixels))
        sheets = []
        for title, some, originals in panels:
            drawn, samples = samples[: len(some)], samples[len(some) :]
            sheets.append(grid(some, [originals, drawn], f"step {step}, {title}: originals above, samples below"))
        path = folder / f"step_{step:07d}.png"
        about = {"captions": captions, "step": step, "seed": cfg.train.seed, "steps": cfg.sample.steps}
        save_png(stack(sheets), path, about)
        return path

    return preview


def _panel(title: str, source: CaptionedImages, count: int) -> Panel:
    indices = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)
    samples = [source[int(i)] for i in indices]
    return title, [s["captions"][0] for s in samples], [Image.fromarray(s["image"]) for s in samples]
