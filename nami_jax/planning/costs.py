"""What a run costs at an assumed share of the chips' peak rate: seconds and money, phase by phase."""

import dataclasses
import itertools
from collections.abc import Iterator

from nami_jax.config import Config
from nami_jax.monitoring.flops import sampling_flops, training_flops
from nami_jax.planning.hardware import Hardware
from nami_jax.training.compilation import BatchShapes, step_shapes


@dataclasses.dataclass(frozen=True)
class Rate:
    """What all devices together are assumed to do, and what they cost."""

    flops: float  # per second
    price: float  # USD per hour

    def dollars(self, seconds: float) -> float:
        """Returns the cost of that many seconds."""
        return self.price * seconds / 3600


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a run."""

    steps: int
    images: int  # of all stages in one step
    flops: float  # of one step; the mean over the buckets


def make_rate(hardware: Hardware, mfu: float, price_per_chip_hour: float | None) -> Rate | None:
    """Returns the rate at a model FLOPs utilisation `mfu`; None for chips whose peak rate is not known.

    Args:
        hardware: the devices.
        mfu: the share of the peak rate that does the network's own FLOPs, in (0, 1]. It is assumed, not measured.
        price_per_chip_hour: USD; None: the list price.
    """
    if hardware.chip is None:
        return None
    count, chip = len(hardware.devices), hardware.chip
    price = chip.price_per_hour if price_per_chip_hour is None else price_per_chip_hour
    return Rate(count * chip.peak_flops * mfu, count * price)


def shape_flops(cfg: Config, shapes: BatchShapes) -> tuple[int, ...]:
    """Counts each stage of a training step on images of `shapes`."""
    downscale, (_, height, width, _) = cfg.autoencoder.downscale, shapes[-1]
    return training_flops(cfg, [shape[0] for shape in shapes], (height * downscale, width * downscale))


def picture_flops(cfg: Config, images: int) -> tuple[int, ...]:
    """Counts each stage of drawing `images` pictures of data.side x data.side with guidance."""
    side = cfg.data.side // cfg.autoencoder.downscale
    return sampling_flops(cfg.model, cfg.sample, side, cfg.text.max_length, images, cfg.flow.sigma_ends)


def phases(cfg: Config) -> Iterator[Phase]:
    """Yields the phases of a run in their order."""
    bounds, buckets = cfg.train.phase_bounds, len(cfg.data.bucket_sizes)
    shapes = iter(step_shapes(cfg))
    for (first, stop), stage_batch in zip(itertools.pairwise(bounds), cfg.train.stage_batches, strict=True):
        if stop > first:  # a phase that rounding leaves no step has no shapes
            flops = [sum(shape_flops(cfg, shape)) for shape in itertools.islice(shapes, buckets)]
            yield Phase(stop - first, sum(stage_batch), sum(flops) / buckets)
