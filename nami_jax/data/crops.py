"""Random squares of a data set's images, batched: one element of the loader is one training step of an autoencoder.

The order is a function of the seed and the step alone.
"""

import functools
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from nami_jax.data.captioned_images import Sample
from nami_jax.data.examples import PictureSource
from nami_jax.data.images import to_stage
from nami_jax.parallel.host_shard import WHOLE, HostShard

ENDLESS = 1 << 40  # steps; grain's ranges have an end


def crop_loader(
    sources: Sequence[PictureSource],
    *,
    seed: int,
    batch: int,
    crop: int,
    flip: bool,
    shard: HostShard = WHOLE,
) -> grain.DatasetIterator[np.ndarray]:
    """Returns an endless iterator over the steps of a run, at step 0; the data are reshuffled each epoch.

    `set_state({"next_index": step})` continues at any step, with any number of processes; `get_state()` gives that.

    Args:
        sources: the training split, one source for each size of image.
        seed: of order, places and mirroring.
        batch: images of a step.
        crop: side of the squares cut from them, pixels; at most the side of the images.
        flip: whether to mirror half of them.
        shard: which rows of each batch to return; all if not given.

    Returns:
        Elements (rows, crop, crop, 3) float32 in [-1, 1].

    Raises:
        ConfigError: a batch cannot be shared evenly.
    """
    shard.require_even("train.batch", (batch,))
    draw = functools.partial(_draw, crop=crop, flip=flip)
    images = grain.MapDataset.concatenate([grain.MapDataset.source(source) for source in sources])
    examples: Any = images.seed(seed).shuffle().repeat().random_map(draw)

    # The share is cut after everything random: before it, the draws would depend on the number of processes.
    def pixels_of(step: int) -> np.ndarray:
        return to_stage(np.stack([examples[int(step * batch + row)] for row in shard.rows(batch)]), 1)

    pixels = grain.MapDataset.range(ENDLESS).map(pixels_of)
    # One thread: with the images decoded in memory (data.cache_images) cropping costs next to nothing.
    return pixels.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)).__iter__()


def _draw(sample: Sample, rng: np.random.Generator, crop: int, flip: bool) -> np.ndarray:
    image = sample["image"]
    top, left = rng.integers(0, np.array(image.shape[:2]) - crop + 1)
    square = image[top : top + crop, left : left + crop]
    return square[:, ::-1] if flip and rng.random() < 0.5 else square
