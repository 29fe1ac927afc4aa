"""One unit of work from its source to its files: the function that Beam calls, on whatever machine.

The manifest is written last: a unit counts once its manifest is there. Each attempt at a unit gives its files new
names, so that one that was thought dead cannot overwrite what another has finished; files of interrupted attempts stay
and are never read.
"""

import functools
import os
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from nami_jax.config import Config
from nami_jax.data.prepared_format import DATA, Bucket, PreparedSample, Shard, manifest_name
from nami_jax.preparation import beam_files as files
from nami_jax.preparation.encoding import Picture, RecordEncoder
from nami_jax.preparation.errors import PreparationError, Reject, RejectedError
from nami_jax.preparation.job import Job
from nami_jax.preparation.manifests import Manifest
from nami_jax.preparation.pixels import fit_image, limit_pillow
from nami_jax.preparation.sources import Item, Unit

THREADS = min(16, os.cpu_count() or 1)
AT_ONCE = 4 * THREADS  # records that are decoded while the networks wait
MAX_HELD = 512 * 1024**2  # bytes of their encoded images: no more records are read beyond
MAX_CAPTIONS, MAX_LETTERS = 64, 10_000  # of a record and of a caption: their states have to fit into memory


def prepare_unit(fields: Sequence[Any], job: Job) -> tuple[int, int]:
    """Prepares a unit of work, unless its manifest says that it is done.

    Args:
        fields: of a `Unit`.
        job: the preparation.

    Returns:
        The numbers of records that were kept and that were rejected.

    Raises:
        PreparationError: the files cannot be written, or the source has changed since it was planned.
    """
    unit = Unit(*fields)
    manifest = files.join(job.out, manifest_name(unit.index))
    if files.exists(manifest):
        return 0, 0
    limit_pillow(job.options.limits)
    rejects: list[Reject] = []
    with files.scratch(job.out) as folder:
        shards = ShardWriter(job, unit, folder)
        encoder = RecordEncoder(job, shards.write)
        for result in pictures(job, unit):
            if isinstance(result, Reject):
                rejects.append(result)
            else:
                encoder.add(result)
        encoder.finish()
        written = shards.publish()
    kept = sum(shard.records for shard in written)
    if kept + len(rejects) != unit.count + bool(unit.damage):
        raise PreparationError(f"{unit.part} has changed while it was being prepared. Run again with another --out.")
    files.write(manifest, Manifest(written, shards.ids(written), rejects).to_json().encode())
    return kept, len(rejects)


def pictures(job: Job, unit: Unit) -> Iterator[Picture | Reject]:
    """Yields the records of a unit in order, decoded in threads and brought to the size of a bucket."""
    look = functools.partial(_look, job=job)
    with ThreadPoolExecutor(THREADS) as pool:
        for some in read_ahead(job.source.read(unit)):
            yield from pool.map(look, some)


def read_ahead(records: Iterator[Item | Reject]) -> Iterator[list[Item | Reject]]:
    """Yields as many records at once as may be held in memory."""
    some, held = [], 0
    for record in records:
        some.append(record)
        held += record.held if isinstance(record, Item) else 0
        if len(some) == AT_ONCE or held >= MAX_HELD:
            yield some
            some, held = [], 0
    if some:
        yield some


def _look(item: Item | Reject, job: Job) -> Picture | Reject:
    if isinstance(item, Reject):
        return item
    try:
        captions = fill_templates(item.captions, job.cfg.data.caption_templates)
        if not captions and isinstance(job.cfg, Config):  # an autoencoder needs none
            raise RejectedError("empty caption")
        bucket, pixels = fit_image(item.load(), job.cfg.data.bucket_sizes, job.options.limits)
    except RejectedError as error:
        return Reject(item.id, error.reason, error.detail)
    return Picture(item.id, bucket, pixels, captions)


def fill_templates(captions: Sequence[str], templates: Sequence[str]) -> tuple[str, ...]:
    """Returns every caption in every template once; raises `RejectedError` for too many or too long ones."""
    if len(captions) > MAX_CAPTIONS:
        raise RejectedError("too many captions", f"{len(captions)}; at most {MAX_CAPTIONS} are allowed")
    longest = max(map(len, captions), default=0)
    if longest > MAX_LETTERS:
        raise RejectedError("caption too long", f"{longest} characters; at most {MAX_LETTERS} are allowed")
    return tuple(dict.fromkeys(template.replace("{}", text) for text in captions for template in templates))


class ShardWriter:
    """The files of a unit: one for each bucket that has records."""

    def __init__(self, job: Job, unit: Unit, folder: Path):
        """Writes to the local `folder` until `publish`."""
        self._job, self._unit, self._folder = job, unit, folder
        self._split = job.source.split(unit)
        self._attempt = uuid.uuid4().hex[:8]
        self._writers: dict[Bucket, tuple[str, ArrayRecordWriter]] = {}
        self._ids: dict[Bucket, list[str]] = {}

    def write(self, bucket: Bucket, sample: PreparedSample) -> None:
        """Adds a record to its file."""
        if bucket not in self._writers:
            name = f"{self._split}-{bucket[0]}x{bucket[1]}-{self._unit.index:06d}-{self._attempt}.arrayrecord"
            # One record in a group: training reads single ones in any order.
            self._writers[bucket] = name, ArrayRecordWriter(str(self._folder / name), "group_size:1")
            self._ids[bucket] = []
        name, writer = self._writers[bucket]
        try:
            writer.write(sample.pack())
        except (OSError, RuntimeError) as error:
            raise files.cannot_write(str(self._folder / name), error) from error
        self._ids[bucket].append(sample.id)

    def publish(self) -> list[Shard]:
        """Finishes the files, moves them to their place and returns what the manifest says of them."""
        shards = []
        for bucket, (name, writer) in sorted(self._writers.items()):
            local = self._folder / name
            try:
                writer.close()
            except (OSError, RuntimeError) as error:
                raise files.cannot_write(str(local), error) from error
            size = local.stat().st_size
            files.publish(local, files.join(self._job.out, DATA, name))
            records = len(self._ids[bucket])
            shards.append(Shard(f"{DATA}/{name}", self._unit.index, self._split, bucket, records, size))
        return shards

    def ids(self, shards: Sequence[Shard]) -> list[list[str]]:
        """Returns the ids of the records in each of the files."""
        return [self._ids[shard.bucket] for shard in shards]
