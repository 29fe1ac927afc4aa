"""How good an autoencoder in training is: figures and pictures of held-out images, and what its latents look like."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from PIL import Image

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.config import require
from nami_jax.config.autoencoder_run import AutoencoderRun
from nami_jax.data.examples import Pictures, PictureSource
from nami_jax.data.images import to_stage
from nami_jax.models.autoencoder_kl import AutoencoderKL
from nami_jax.models.vgg import Vgg
from nami_jax.monitoring.watch import VALIDATION_LOSS
from nami_jax.parallel.processes import is_main
from nami_jax.sampling.pictures import grid, save_png, to_images
from nami_jax.training.autoencoder.perceptual import perceptual_distance
from nami_jax.training.autoencoder.reconstruction import autoencoder_structure, network_config
from nami_jax.training.autoencoder.reconstruction_loss import psnr
from nami_jax.training.state import TrainState

COMPARED = ("pixel", "perceptual")  # the parts of the loss that say how good a reconstruction is
AT_ONCE = 64  # images read, encoded and decoded together


class LatentStatistics:
    """Mean and standard deviation over images and positions, of each channel and of all together.

    They are of the latents added so far, which are not kept. Chan, Golub and LeVeque, "Algorithms for computing the
    sample variance", The American Statistician 37 (1983), eq. 1.5: unlike a difference of two large sums it loses no
    digits.

    Attributes:
        channel_mean: (C,) float64.
    """

    def __init__(self, channels: int):
        self.channel_mean = np.zeros(channels)
        self._squares = np.zeros(channels)  # sums of the squared distances from the mean
        self._count = 0  # of latent positions

    def add(self, latents: np.ndarray) -> None:
        """Takes in latents (B, h, w, C)."""
        values = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
        distance = values.mean(0) - self.channel_mean
        count = self._count + len(values)
        self._squares += values.var(0) * len(values) + distance**2 * (self._count * len(values) / count)
        self.channel_mean = self.channel_mean + distance * (len(values) / count)
        self._count = count

    @property
    def channel_std(self) -> np.ndarray:
        """(C,) float64."""
        return np.sqrt(self._squares / self._count)

    @property
    def mean(self) -> float:
        """Of all channels together."""
        return float(self.channel_mean.mean())

    @property
    def std(self) -> float:
        """Of all channels together."""
        return float(np.sqrt((self.channel_std**2 + (self.channel_mean - self.mean) ** 2).mean()))


def latent_statistics(autoencoder: Autoencoder, sources: Sequence[PictureSource]) -> LatentStatistics:
    """Measures the posterior means of all images of `sources`."""
    statistics = LatentStatistics(autoencoder.channels)
    for images in batches(sources):
        statistics.add(autoencoder.encode(images))
    return statistics


def with_unit_latents(cfg: AutoencoderRun, params: Any, sources: Sequence[PictureSource]) -> AutoencoderKL:
    """Returns the network with the factors that give the latents of `sources` mean 0 and deviation 1 as a whole.

    One factor for all channels keeps what the channels carry in the proportion that the decoder expects.
    Rombach et al., arXiv 2112.10752, appendix G.

    Raises:
        ConfigError: all latents are the same.
    """
    statistics = latent_statistics(open_weights(cfg, params), sources)
    require(
        statistics.std > 0,
        field="loss.kl",
        value=cfg.loss.kl,
        rule="all latents have collapsed to one value",
        remedy="Lower it",
    )
    network = dataclasses.replace(network_config(cfg), scaling_factor=1 / statistics.std, shift_factor=statistics.mean)
    return nnx.merge(autoencoder_structure(network), jax.device_get(params))


def open_weights(cfg: AutoencoderRun, params: Any) -> Autoencoder:
    """Makes an autoencoder to run of a training state's weights; its latents are unscaled."""
    return Autoencoder(nnx.merge(autoencoder_structure(network_config(cfg)), jax.device_get(params)))


def batches(sources: Sequence[PictureSource]) -> Iterator[np.ndarray]:
    """Yields all images of `sources` in order, (up to 64, height, width, 3) float32 in [-1, 1]."""
    for source in sources:
        for start in range(0, len(source), AT_ONCE):
            some = [source[i]["image"] for i in range(start, min(start + AT_ONCE, len(source)))]
            yield to_stage(np.stack(some), 1)


_distance = jax.jit(perceptual_distance)


def make_validation(
    cfg: AutoencoderRun, vgg: Vgg | None, held_out: Sequence[PictureSource]
) -> Callable[[TrainState], dict[str, float]]:
    """Returns state -> figures of the held-out images, whole and decoded from their posteriors' means.

    They are means over images: `validation/psnr` (dB), `validation/pixel` and `validation/perceptual` as in the loss,
    and `validation/loss`, their weighted sum; and `latents/mean_c` and `latents/std_c`, of the latents' channels c.
    Without held-out images there are none.
    """

    def validate(state: TrainState) -> dict[str, float]:
        if not held_out:
            return {}
        autoencoder, figures = open_weights(cfg, state.ema), []
        statistics = LatentStatistics(autoencoder.channels)
        for images in batches(held_out):
            latents = autoencoder.encode(images)
            statistics.add(latents)
            decoded = autoencoder.decode(latents)
            rows = {"psnr": psnr(images, decoded), "pixel": np.abs(images - decoded).mean((1, 2, 3))}
            if vgg is not None:
                rows["perceptual"] = _distance(vgg, images, decoded)
            figures.append(rows)
        values = {name: np.concatenate([rows[name] for rows in figures]) for name in figures[0]}
        scalars = {f"validation/{name}": float(value.mean()) for name, value in values.items()}
        parts = {name: getattr(cfg.loss, name) * scalars.get(f"validation/{name}", 0.0) for name in COMPARED}
        scalars[VALIDATION_LOSS] = sum(parts.values())
        for c, (mean, std) in enumerate(zip(statistics.channel_mean, statistics.channel_std, strict=True)):
            scalars |= {f"latents/mean_{c}": float(mean), f"latents/std_{c}": float(std)}
        return scalars

    return validate


def make_preview(cfg: AutoencoderRun, data: Pictures, folder: Path) -> Callable[[TrainState, int], Path]:
    """Returns (state, step) -> path of a grid: images, evenly spaced, above their reconstructions.

    They are held-out ones, or training images where none is held out, of the first size that there is.
    """
    what, source = ("held-out", data.held_out[0]) if data.held_out else ("training", data.train[0])
    count = min(cfg.train.sample_images, len(source))
    samples = [source[int(i)] for i in np.linspace(0, len(source) - 1, count).round()]
    captions, pixels = [s["captions"][0] for s in samples], to_stage(np.stack([s["image"] for s in samples]), 1)

    def preview(state: TrainState, step: int) -> Path:
        autoencoder = open_weights(cfg, state.ema)
        rows: list[list[Image.Image]] = [to_images(x) for x in (pixels, autoencoder.decode(autoencoder.encode(pixels)))]
        path = folder / f"step_{step:07d}.png"
        title = f"step {step}, {what} images: originals above, reconstructions below"
        if is_main():
            save_png(grid(captions, rows, title), path, {"captions": captions, "step": step})
        return path

    return preview
