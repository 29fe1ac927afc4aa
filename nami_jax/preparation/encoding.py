"""Pixels and captions to records, in batches of few shapes. `worker` feeds it and writes what it gives."""

from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np

from nami_jax.data.latents import Bucket, LatentSample
from nami_jax.preparation.job import Job

CAPTIONS_AT_ONCE = 64  # at least: their states, in float32, are the largest thing a worker holds


class Picture(NamedTuple):
    """An image that is fit to be encoded."""

    id: str
    bucket: Bucket
    pixels: np.ndarray  # (height, width, 3) uint8
    captions: tuple[str, ...]  # templates filled in


class _Encoded(NamedTuple):
    id: str
    bucket: Bucket
    captions: tuple[str, ...]
    latents: np.ndarray  # (h, w, C) bfloat16


class RecordEncoder:
    """Collects pictures until there are enough of one shape to encode, then their captions, and hands on records.

    The order of records, and so the bytes of files, follow from the order of pictures alone.
    """

    def __init__(self, job: Job, write: Callable[[Bucket, LatentSample], None]):
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
        pixels = np.stack([picture.pixels for picture in waiting])
        # Filled up with the first image: one shape for each bucket is compiled.
        pixels = np.concatenate([pixels, np.repeat(pixels[:1], self._batch_size - len(pixels), axis=0)])
        images = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)  # (B, H, W, 3)
        latents = self._networks.autoencoder.encode(images).astype(ml_dtypes.bfloat16)  # (B, h, w, C)
        for picture, latent in zip(waiting, latents, strict=False):
            self._encoded.append(_Encoded(picture.id, picture.bucket, picture.captions, latent))
        waiting.clear()
        if sum(len(encoded.captions) for encoded in self._encoded) >= CAPTIONS_AT_ONCE:
            self._encode_captions()

    def _encode_captions(self) -> None:
        captions = list(dict.fromkeys(caption for encoded in self._encoded for caption in encoded.captions))
        states = self._networks.text(captions)
        rows = {caption: row for row, caption in enumerate(captions)}
        for encoded in self._encoded:
            mine = [rows[caption] for caption in encoded.captions]
            embeds = states.embeds[mine].astype(ml_dtypes.bfloat16)
            sample = LatentSample(encoded.id, encoded.captions, encoded.latents, embeds, states.pooled[mine])
            self._write(encoded.bucket, sample)
        self._encoded.clear()
