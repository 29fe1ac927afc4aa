"""Pixels and captions to records, in batches of few shapes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

from nami_jax.data.images import to_stage
from nami_jax.data.prepared_format import Bucket, PreparedSample
from nami_jax.preparation.errors import PreparationError
from nami_jax.preparation.job import Job

CAPTIONS_AT_ONCE = 64  # at least: their states, in float32, are the largest thing a worker holds


class Picture(NamedTuple):
    """An image that is ready to be encoded."""

    id: str
    bucket: Bucket
    pixels: np.ndarray  # (height, width, 3) uint8
    captions: tuple[str, ...]  # templates filled in


class _Encoded(NamedTuple):
    id: str
    bucket: Bucket
    captions: tuple[str, ...]
    image: np.ndarray  # (H, W, 3) uint8, or latents (h, w, C) bfloat16
    lower: tuple[np.ndarray, ...]  # latents of the picture pooled by 2, 4, ...


class RecordEncoder:
    """Collects pictures until there are enough of one shape to encode, then their captions, and passes on records.

    The order of records, and so the bytes of files, follow from the order of pictures alone.
    """

    def __init__(self, job: Job, write: Callable[[Bucket, PreparedSample], None]):
        """Calls `write` with every finished record and its bucket."""
        self._networks = job.networks()
        self._batch_size, self._lower_levels = job.options.batch_size, job.lower_levels
        self._write = write
        self._pictures: dict[Bucket, list[Picture]] = {bucket: [] for bucket in job.cfg.data.bucket_sizes}
        self._encoded: list[_Encoded] = []

    def add(self, picture: Picture) -> None:
        """Takes in a picture."""
        waiting = self._pictures[picture.bucket]
        waiting.append(picture)
        if len(waiting) == self._batch_size:
            self._encode_images(waiting)

    def finish(self) -> None:
        """Encodes and writes what is left."""
        for waiting in self._pictures.values():
            if waiting:
                self._encode_images(waiting)
        self._encode_captions()

    def _encode_images(self, waiting: list[Picture]) -> None:
        for picture, (image, *lower) in zip(waiting, self._images(waiting), strict=True):
            self._encoded.append(_Encoded(picture.id, picture.bucket, picture.captions, image, tuple(lower)))
        waiting.clear()
        if sum(len(encoded.captions) for encoded in self._encoded) >= CAPTIONS_AT_ONCE:
            self._encode_captions()

    def _images(self, pictures: list[Picture]) -> Sequence[Sequence[np.ndarray]]:
        """Returns what is stored of each picture: its pixels, or the latents that they are encoded to.

        The latents come at the picture's own size and then at each smaller one, pooled in pixels as stages are.
        """
        if self._networks.autoencoder is None:
            return [(picture.pixels,) for picture in pictures]
        pixels = np.stack([picture.pixels for picture in pictures])
        # Filled up with the first image: one shape for each bucket is compiled.
        pixels = np.concatenate([pixels, np.repeat(pixels[:1], self._batch_size - len(pixels), axis=0)])
        levels = []
        for level in range(self._lower_levels + 1):
            latents = self._networks.autoencoder.encode(to_stage(pixels, 2**level))[: len(pictures)]  # (B, h, w, C)
            if not np.isfinite(latents).all():
                raise PreparationError(
                    f"The autoencoder makes latents that are not finite, e.g. near {pictures[0].id}. Use "
                    "another autoencoder.folder, or --dtype=float32."
                )
            levels.append(latents.astype(ml_dtypes.bfloat16))
        return list(zip(*levels, strict=True))

    def _encode_captions(self) -> None:
        texts = self._networks.text
        captions = list(dict.fromkeys(caption for encoded in self._encoded for caption in encoded.captions))
        states = texts(captions) if texts and captions else None
        rows = {caption: row for row, caption in enumerate(captions)}
        for encoded in self._encoded:
            embeds, pooled = None, None
            if states is not None:
                mine = [rows[caption] for caption in encoded.captions]
                embeds, pooled = states.embeds[mine].astype(ml_dtypes.bfloat16), states.pooled[mine]
            sample = PreparedSample(encoded.id, encoded.captions, encoded.image, embeds, pooled, encoded.lower)
            self._write(encoded.bucket, sample)
        self._encoded.clear()
