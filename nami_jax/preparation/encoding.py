"""Pixels and captions to records, in batches of few shapes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

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


class RecordEncoder:
    """Collects pictures until there are enough of one shape to encode, then their captions, and passes on records.

    The order of records, and so the bytes of files, follow from the order of pictures alone.
    """

    def __init__(self, job: Job, write: Callable[[Bucket, PreparedSample], None]):
        """Calls `write` with every finished record and its bucket."""
        self._networks = job.networks()
        self._batch_size = job.options.batch_size
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
        for picture, image in zip(waiting, self._images(waiting), strict=True):
            self._encoded.append(_Encoded(picture.id, picture.bucket, picture.captions, image))
        waiting.clear()
        if sum(len(encoded.captions) for encoded in self._encoded) >= CAPTIONS_AT_ONCE:
            self._encode_captions()

    def _images(self, pictures: list[Picture]) -> Sequence[np.ndarray]:
        """Returns what is stored of each picture: its pixels, or the latents that they are encoded to."""
        if self._networks.autoencoder is None:
            return [picture.pixels for picture in pictures]
        pixels = np.stack([picture.pixels for picture in pictures])
        # Filled up with the first image: one shape for each bucket is compiled.
        pixels = np.concatenate([pixels, np.repeat(pixels[:1], self._batch_size - len(pixels), axis=0)])
        images = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)  # (B, H, W, 3)
        latents = self._networks.autoencoder.encode(images)[: len(pictures)]  # (B, h, w, C)
        if not np.isfinite(latents).all():
            raise PreparationError(
                f"The autoencoder makes latents that are not finite, e.g. near {pictures[0].id}. Use "
                "another autoencoder.folder, or --dtype=float32."
            )
        return list(latents.astype(ml_dtypes.bfloat16))

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
            self._write(encoded.bucket, PreparedSample(encoded.id, encoded.captions, encoded.image, embeds, pooled))
        self._encoded.clear()
