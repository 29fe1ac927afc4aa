"""Pictures that drawing begins from, as a caller gives them: read, checked, cut to size, and put back at the end."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.config import ConfigError, require, shown
from nami_jax.data.images import BrokenImageError, cover, on_white, open_image, to_stage
from nami_jax.sampling.source_paths import Source

STRENGTH = 0.75  # of image-to-image and editing: with three stages, about where the second one begins
REMEDY = "Pass a PIL image, a path, or an array (H, W, 3) of levels 0 to 255 or of numbers in [0, 1]"


@dataclasses.dataclass(frozen=True)
class SourcePictures:
    """Pictures of the size that is drawn.

    Attributes:
        levels: (N, H, W, 3) uint8, N the number of prompts, or 1.
        drawn: (N, H, W, 1) bool, true where they are drawn anew; None: everywhere.
        strength: the global time from which they are.
    """

    levels: np.ndarray
    drawn: np.ndarray | None
    strength: float

    def latents(self, autoencoder: Autoencoder | None) -> Source:
        """Returns them as what the sampler begins from; a latent is drawn if any of its pixels is."""
        clean = to_stage(self.levels, 1)
        if autoencoder is None:
            return Source(clean, self.strength, self.drawn)
        clean = np.asarray(autoencoder.encode(clean))
        if self.drawn is None:
            return Source(clean, self.strength)
        _, h, w, _ = clean.shape
        blocks = self.drawn.reshape(len(self.drawn), h, autoencoder.downscale, w, autoencoder.downscale)
        return Source(clean, self.strength, np.any(blocks, axis=(2, 4))[..., None])

    def keep(self, pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Puts back what was not to be drawn: exactly, whatever an autoencoder made of it.

        Args:
            pixels: (B, H, W, 3) in [-1, 1].
            rows: (B,) which of the pictures each was drawn from.
        """
        if self.drawn is None:
            return pixels
        return np.where(self.drawn[rows % len(self.drawn)], pixels, to_stage(self.levels[rows % len(self.levels)], 1))


def read_sources(image: Any, mask: Any, strength: float | None, count: int, size: tuple[int, int]) -> SourcePictures:
    """Reads the pictures to begin from.

    Args:
        image: a PIL image, a path or an array; or a list of these, one for each prompt. One of another size is resized
            until it covers that size, and cropped evenly.
        mask: likewise, of one channel, white (true, above half) where the picture is drawn anew; None: everywhere.
        strength: the global time in (0, 1] from which drawing begins; None: 1 with a mask, `STRENGTH` without.
        count: of prompts.
        size: height and width that are drawn, pixels.

    Raises:
        ConfigError: something is no picture, there are as many as neither one nor the prompts, or strength is out of
            range.
    """
    height, width = size
    pictures = [cover(_picture(each), height, width) for each in _several("image", image, count)]
    strength = (1.0 if mask is not None else STRENGTH) if strength is None else strength
    require(
        isinstance(strength, int | float) and 0 < strength <= 1,
        field="strength",
        value=strength,
        rule="must be above 0 and at most 1: the global time from which drawing begins, 1 being noise",
        remedy=f"Set e.g. {STRENGTH}",
    )
    drawn = None
    if mask is not None:
        masks = [
            ImageOps.fit(_mask(each), (width, height), Image.Resampling.NEAREST)
            for each in _several("mask", mask, count)
        ]
        drawn = np.stack([np.asarray(each) > 127 for each in masks])[..., None]
        require(
            bool(drawn.any()),
            field="mask",
            value=f"of {width}x{height}",
            rule="is black everywhere, so that nothing is drawn",
            remedy="Make white what is to be drawn anew",
        )
    return SourcePictures(np.stack([np.asarray(each) for each in pictures]), drawn, float(strength))


def _several(field: str, given: Any, count: int) -> list[Any]:
    pictures = list(given) if isinstance(given, list | tuple) else [given]
    require(
        len(pictures) in (1, count),
        field=field,
        value=f"{len(pictures)} pictures",
        rule=f"there are {count} prompts",
        remedy="Pass one, or one for each prompt",
    )
    return pictures


def _picture(given: Any) -> Image.Image:
    if isinstance(given, str | Path):
        return _opened("image", Path(given))
    if isinstance(given, Image.Image):
        return on_white(ImageOps.exif_transpose(given))
    levels = _levels("image", given)
    require(
        levels.ndim == 3 and levels.shape[2] == 3,
        field="image",
        value=levels.shape,
        rule="has that shape",
        remedy=REMEDY,
    )
    return Image.fromarray(levels)


def _mask(given: Any) -> Image.Image:
    if isinstance(given, str | Path):
        return _opened("mask", Path(given)).convert("L")
    if isinstance(given, Image.Image):
        return given.convert("L")
    levels = _levels("mask", given)
    require(
        levels.ndim == 2 or (levels.ndim == 3 and levels.shape[2] == 1),
        field="mask",
        value=levels.shape,
        rule="has that shape",
        remedy="Pass an array (H, W), true or 1 where the picture is to be drawn anew",
    )
    return Image.fromarray(levels.reshape(levels.shape[:2]))


def _opened(field: str, path: Path) -> Image.Image:
    try:
        return open_image(path.read_bytes())
    except (OSError, ValueError, BrokenImageError) as error:
        raise ConfigError(
            f"{field} = {shown(str(path))}: {error}. Pass a PNG, JPEG or WebP that can be read."
        ) from error


def _levels(field: str, given: Any) -> np.ndarray:
    """Returns an array of levels 0 to 255; of numbers in [0, 1] or of truth values the nearest."""
    array = np.asarray(given)
    whole = array.dtype in (np.uint8, np.bool_)
    fits = whole or (np.issubdtype(array.dtype, np.floating) and bool(((array >= 0) & (array <= 1)).all()))
    require(fits, field=field, value=f"an array of {array.dtype}", rule="is no picture", remedy=REMEDY)
    return array if array.dtype == np.uint8 else np.round(array.astype(np.float32) * 255).astype(np.uint8)
