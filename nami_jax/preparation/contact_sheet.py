"""A picture for checking a preparation: what is stored, with its captions; latents decoded below originals."""

import collections
import io
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import logging
from PIL import Image

from nami_jax.data.prepared_format import Bucket, PreparedSample, Shard
from nami_jax.preparation import beam_files as files
from nami_jax.preparation.errors import Reject
from nami_jax.preparation.job import Job
from nami_jax.preparation.manifests import Manifest
from nami_jax.preparation.sources import Unit
from nami_jax.preparation.worker import pictures
from nami_jax.sampling.pictures import grid, stack, to_images

CONTACT_SHEET = "contact_sheet.png"
PER_BUCKET = 8
UNITS_PER_BUCKET = 4  # that they are taken from: originals are read again
LARGEST = 256  # longest side at which a picture is shown, pixels


def write_contact_sheet(job: Job, units: Sequence[Unit], manifests: Sequence[Manifest]) -> None:
    """Draws a few records of each bucket, spread over the source, into `contact_sheet.png`."""
    chosen: dict[Bucket, list[tuple[Unit, Shard]]] = collections.defaultdict(list)
    for unit, manifest in zip(units, manifests, strict=True):
        for shard in manifest.shards:
            chosen[shard.bucket].append((unit, shard))
    pairs = {bucket: _pairs(job, chosen[bucket]) for bucket in sorted(chosen)}
    gone = sum(original is None for some in pairs.values() for _, original in some)
    if gone:
        logging.warning("%s lacks %d images that can no longer be read from the source.", CONTACT_SHEET, gone)
    found = {bucket: [(s, x) for s, x in some if x is not None] for bucket, some in pairs.items()}
    grids = [_bucket_grid(job, bucket, some) for bucket, some in found.items() if some]
    if grids:
        buffer = io.BytesIO()
        stack(grids).save(buffer, "PNG")
        files.write(files.join(job.out, CONTACT_SHEET), buffer.getvalue())


def _pairs(job: Job, shards: Sequence[tuple[Unit, Shard]]) -> list[tuple[PreparedSample, np.ndarray | None]]:
    """Returns a few records with their originals' pixels; None for one that is not there any more."""
    picked = [shards[i * len(shards) // UNITS_PER_BUCKET] for i in range(UNITS_PER_BUCKET)]
    each = -(-PER_BUCKET // len(dict.fromkeys(picked)))
    pairs = []
    for unit, shard in dict.fromkeys(picked):
        some = list(_records(job.out, shard, each))
        if job.networks().autoencoder is None:  # the stored pixels show by themselves how images are cropped
            pixels = {sample.id: sample.image for sample in some}
        else:
            pixels = _originals(job, unit, {sample.id for sample in some})
        pairs += [(sample, pixels.get(sample.id)) for sample in some]
    return pairs


def _bucket_grid(job: Job, bucket: Bucket, pairs: Sequence[tuple[PreparedSample, np.ndarray]]) -> Image.Image:
    autoencoder = job.networks().autoencoder
    rows, title = [[_shown(Image.fromarray(x)) for _, x in pairs]], f"{bucket[0]}x{bucket[1]} pixels"
    if autoencoder is not None:
        # One by one: decoding takes more memory than encoding, and here it need not be fast.
        decoded = [autoencoder.decode(sample.image[None])[0] for sample, _ in pairs]
        rows.append([_shown(x) for x in to_images(np.stack(decoded))])
        title += ": originals above, decoded latents below"
    return grid([(sample.captions or (sample.id,))[0] for sample, _ in pairs], rows, title)


def _records(out: str, shard: Shard, count: int) -> Iterator[PreparedSample]:
    """Yields records that are spread over a file."""
    with files.local_copy(files.join(out, shard.name)) as path:
        records: Any = grain.sources.ArrayRecordDataSource([path])
        for i in range(some := min(count, shard.records)):
            yield PreparedSample.unpack(records[i * shard.records // some])


def _originals(job: Job, unit: Unit, ids: set[str]) -> dict[str, np.ndarray]:
    """Reads the pixels of some records of a unit again."""
    found: dict[str, np.ndarray] = {}
    for picture in pictures(job, unit):
        if not isinstance(picture, Reject) and picture.id in ids:
            found[picture.id] = picture.pixels
            if len(found) == len(ids):
                break
    return found


def _shown(image: Image.Image) -> Image.Image:
    image.thumbnail((LARGEST, LARGEST))
    return image
