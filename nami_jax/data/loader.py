"""Images or latents and text states, batched by stage: one element of the loader is one training step.

The order is a function of the config and the step: neither the number of processes nor where a run was interrupted
changes which samples a step sees, nor how they are captioned and flipped. `train.steps` is part of it, for it says at
which step a phase begins: if phases take different numbers of samples, a run continued with other `train.steps` skips
some samples of the running epoch or sees them again.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from nami_jax.config import Config
from nami_jax.data.examples import Example, ExampleSource
from nami_jax.data.images import to_stage
from nami_jax.parallel.host_shard import WHOLE, HostShard
from nami_jax.text.encoders import TextStates


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StageBatch:
    """The images of one stage in one step, and the states of their captions."""

    images: Any  # (B_k, H_k, W_k, C) float32, pixels in [-1, 1] or latents; an array, or what stands for one
    text: TextStates  # (B_k, T, D) and (B_k, P)
    coarse: Any = None  # (B_k, H_k / 2, W_k / 2, C) the images at the size of the stage before; None: pooled


Batch = tuple[StageBatch, ...]  # over stages 1..K


def train_loader(
    sources: Sequence[ExampleSource], cfg: Config, shard: HostShard = WHOLE
) -> grain.DatasetIterator[Batch]:
    """Returns an iterator over the steps of a run, at step 0.

    Each step takes all of its samples from one source, drawn in proportion to the sources' sizes. A source is
    reshuffled each epoch and cut into steps of `sum(train.stage_batches[phase])` samples; a step's samples go to stage
    1, 2, ... in turn. `set_state({"next_index": step})` continues at any step, with any number of processes;
    `get_state()` gives that dict.

    Args:
        sources: the training split, one source for each size of image.
        cfg: the run.
        shard: which rows of every stage's batch to return; all if not given.

    Returns:
        Elements as `Batch`, with B_k the share of `train.stage_batches` and sides those of the last stage / 2^(K-k).

    Raises:
        ConfigError: a stage's batch cannot be shared evenly, or is empty.
    """
    for sizes in cfg.train.stage_batches:
        shard.require_even("train.stage_batches", sizes)
    order = order_steps(cfg, [len(source) for source in sources])
    examples = [
        grain.MapDataset.source(source).seed(cfg.train.seed).shuffle().repeat().random_map(source.example)
        for source in sources
    ]
    deal = _Dealer(order, examples, shard)
    return grain.MapDataset.range(cfg.train.steps).map(deal).to_iter_dataset(_read_options()).__iter__()


def _read_options() -> grain.ReadOptions:
    # Decoding small images holds the interpreter's lock: a second thread only helps where there are cores to spare.
    threads = max(1, min(16, (os.cpu_count() or 1) // 2))
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)


@dataclasses.dataclass(frozen=True)
class StepOrder:
    """Where each step finds its samples.

    Attributes:
        sources: (steps,) the source of each step.
        starts: (steps,) the step's first sample in that source, counted through all epochs.
        sizes: (steps, K) the samples of each stage.
    """

    sources: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray


def order_steps(cfg: Config, lengths: Sequence[int]) -> StepOrder:
    """Draws each step's source, by the seed alone, and lays its samples after those of the source's earlier steps."""
    bounds = cfg.train.phase_bounds
    sizes = np.repeat(np.array(cfg.train.stage_batches), np.diff(bounds), axis=0)
    shares = np.array(lengths) / sum(lengths)
    sources = np.random.default_rng(cfg.train.seed).choice(len(lengths), cfg.train.steps, p=shares)
    counts, starts = sizes.sum(axis=1), np.zeros(cfg.train.steps, np.int64)
    for source in range(len(lengths)):
        (mine,) = np.nonzero(sources == source)
        starts[mine] = np.cumsum(counts[mine]) - counts[mine]
    return StepOrder(sources, starts, sizes)


@dataclasses.dataclass(frozen=True)
class _Dealer:
    """Collects a step's examples and deals them out to the stages: the first `sizes[0]` go to stage 1, and so on."""

    order: StepOrder
    examples: Sequence[Any]  # grain.MapDataset of Example, one for each source
    shard: HostShard

    def __call__(self, step: int) -> Batch:
        examples, sizes = self.examples[self.order.sources[step]], self.order.sizes[step]
        firsts = int(self.order.starts[step]) + np.cumsum(sizes) - sizes
        # The share is cut after everything random: before it, the draws would depend on the number of processes.
        parts = [
            [examples[int(first + row)] for row in self.shard.rows(int(size))]
            for first, size in zip(firsts, sizes, strict=True)
        ]
        return tuple(_stage_batch(part, level) for part, level in zip(parts, _levels(len(sizes)), strict=True))


def _levels(stages: int) -> range:
    """Returns how many stages come after stage 1..K."""
    return range(stages - 1, -1, -1)


def _stage_batch(examples: Sequence[Example], level: int) -> StageBatch:
    return StageBatch(
        _images(examples, level),
        TextStates(*(np.stack(states) for states in zip(*((e.embeds, e.pooled) for e in examples), strict=True))),
        _images(examples, level + 1) if level < len(examples[0].lower) else None,
    )


def _images(examples: Sequence[Example], level: int) -> np.ndarray:
    """Returns the examples at the size of a stage, by the number of stages after it; see `to_stage`."""
    if level and examples[0].lower:
        return np.stack([example.lower[level - 1] for example in examples])
    return to_stage(np.stack([example.image for example in examples]), 2**level)


def eval_batches(sources: Sequence[ExampleSource], cfg: Config, shard: HostShard = WHOLE) -> Iterator[Batch]:
    """Yields the held-out split once, in order, each image at every stage's size and with its first caption.

    All batches are full: the last of a source is filled from the source's start, whose images then count a little more.

    Args:
        sources: the held-out split, one source for each size of image.
        cfg: the run; `train.eval_batch` images make a batch.
        shard: which rows of each batch to return; all if not given.

    Raises:
        ConfigError: a batch cannot be shared evenly.
    """
    size = cfg.train.eval_batch
    shard.require_even("train.eval_batch", (size,))
    for source in sources:
        for start in range(0, len(source), size):
            examples = [source.example(source[int(i) % len(source)], None) for i in start + shard.rows(size)]
            yield tuple(_stage_batch(examples, level) for level in _levels(cfg.model.num_stages))
