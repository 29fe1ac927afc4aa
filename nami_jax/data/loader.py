"""Images and text states, batched by stage: one element of the loader is one training step.

`source` comes before, `train_step` after. The order is a function of the seed and the step alone: neither the number of
processes nor where a run was interrupted changes which samples a step sees, nor how they are captioned and flipped.
"""

import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypedDict

import grain
import numpy as np

from nami_jax.config import Config, require
from nami_jax.data.images import to_stage
from nami_jax.data.phases import phase_bounds
from nami_jax.data.source import CaptionedImages, Sample
from nami_jax.text import TextTable


class StageBatch(TypedDict):
    """The images of one stage in one step, and their texts."""

    images: np.ndarray  # (B_k, side_k, side_k, C) float32 in [-1, 1]
    text_embeds: np.ndarray  # (B_k, T, D) float32
    pooled: np.ndarray  # (B_k, P) float32


Step = tuple[StageBatch, ...]  # over stages 1..K


class Visit(NamedTuple):
    """A sample as one visit shows it."""

    image: np.ndarray  # (side, side, C) uint8
    caption: str


def train_loader(
    source: CaptionedImages, text: TextTable, cfg: Config, *, process_index: int = 0, process_count: int = 1
) -> grain.DatasetIterator[Step]:
    """Returns an iterator over the steps of a run, at step 0.

    The data are shuffled anew each epoch and cut into steps of `sum(train.stage_batches[phase])` samples; a step's
    samples go to stage 1, 2, ... in turn. `set_state({"next_index": step})` continues at any step, with any number of
    processes; `get_state()` gives that dict.

    Args:
        source: the training split.
        text: the states of all of its captions.
        cfg: the run.
        process_index: which share of every stage's batch to give: samples `process_index::process_count`.
        process_count: processes that together make a step.

    Returns:
        Elements as `Step`, with B_k the share of `train.stage_batches` and side_k = side / 2^(K-k).

    Raises:
        ConfigError: a stage's batch cannot be shared evenly, or is nobody's.
    """
    return _steps(source, text, cfg, process_index, process_count).to_iter_dataset(_read_options()).__iter__()


def _read_options() -> grain.ReadOptions:
    # Decoding small images holds the interpreter's lock: a second thread only helps where there are cores to spare.
    threads = max(1, min(16, (os.cpu_count() or 1) // 2))
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)


def _steps(
    source: CaptionedImages, text: TextTable, cfg: Config, process_index: int, process_count: int
) -> grain.MapDataset[Step]:
    for sizes in cfg.train.stage_batches:
        require(all(b >= 1 and b % process_count == 0 for b in sizes), "train.stage_batches", sizes,
                f"{process_count} processes must share every stage's images evenly",
                f"Set multiples of {process_count}")  # fmt: skip
    draw = functools.partial(_draw, flip=cfg.data.flip)
    # Slicing comes after everything random: before it, the draws would depend on the number of processes.
    visits = grain.MapDataset.source(source).seed(cfg.train.seed).shuffle().repeat().random_map(draw)
    bounds = phase_bounds(cfg.train.steps, cfg.train.phase_starts)
    phases, start = [], 0
    for sizes, (first, last) in zip(cfg.train.stage_batches, itertools.pairwise(bounds), strict=True):
        stop = start + sum(sizes) * (last - first)
        local = [b // process_count for b in sizes]
        if last > first:
            batches = visits[start + process_index : stop : process_count].batch(sum(local), batch_fn=list)
            phases.append(batches.map(functools.partial(_deal, sizes=local, text=text)))
        start = stop
    return grain.MapDataset.concatenate(phases)


def _draw(sample: Sample, rng: np.random.Generator, flip: bool) -> Visit:
    caption = sample["captions"][rng.integers(len(sample["captions"]))]
    mirror = flip and rng.random() < 0.5
    return Visit(sample["image"][:, ::-1] if mirror else sample["image"], caption)


def _deal(visits: Sequence[Visit], sizes: Sequence[int], text: TextTable) -> Step:
    """Deals a step's visits out to the stages: the first `sizes[0]` go to stage 1, and so on."""
    deck = iter(visits)
    parts = [list(itertools.islice(deck, size)) for size in sizes]
    return tuple(_stage_batch(part, text, factor) for part, factor in zip(parts, _factors(len(sizes)), strict=True))


def _factors(stages: int) -> list[int]:
    return [2 ** (stages - 1 - k) for k in range(stages)]


def _stage_batch(visits: Sequence[Visit], text: TextTable, factor: int) -> StageBatch:
    states = text.lookup([visit.caption for visit in visits])
    images = to_stage(np.stack([visit.image for visit in visits]), factor)
    return StageBatch(images=images, text_embeds=states.embeds, pooled=states.pooled)


def eval_batches(
    source: CaptionedImages, text: TextTable, cfg: Config, *, process_index: int = 0, process_count: int = 1
) -> Iterator[Step]:
    """Yields the held-out split once, in order, each image at every stage's size and with its first caption.

    All batches are full: the last is filled from the start of the split, whose images then count a little more.

    Args:
        source: the held-out split.
        text: the states of its captions.
        cfg: the run; `train.eval_batch` images make a batch.
        process_index: which consecutive share of each batch to give.
        process_count: processes that together make a batch.

    Raises:
        ConfigError: a batch cannot be shared evenly.
    """
    size = cfg.train.eval_batch
    require(size % process_count == 0, "train.eval_batch", size, f"{process_count} processes must share it evenly",
            f"Set a multiple of {process_count}")  # fmt: skip
    share = size // process_count
    for start in range(process_index * share, -(-len(source) // size) * size, size):
        samples = [source[i % len(source)] for i in range(start, start + share)]
        visits = [Visit(sample["image"], sample["captions"][0]) for sample in samples]
        yield tuple(_stage_batch(visits, text, factor) for factor in _factors(cfg.model.num_stages))
