"""Prepared data, checked against a run's config and read at random for training."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import logging

from nami_jax.config import Config, ConfigError, DataConfig, require
from nami_jax.data.corruption import CorruptRecords
from nami_jax.data.prepared_format import (
    AGAIN,
    EMPTY_FILE,
    HELD_OUT,
    INDEX_FILE,
    SETTINGS_FILE,
    TFDS,
    TRAIN,
    Index,
    Prepared,
    PreparedSample,
    Shard,
    manifest_name,
    unpack_states,
)
from nami_jax.files.json_files import read_bytes
from nami_jax.text.encoder_files import encoder_id
from nami_jax.text.encoders import TextStates

DAMAGED = (RuntimeError, ValueError)  # what reading a record raises whose block has been overwritten


class _WholeFile(NamedTuple):
    """What grain wants to know of a file so as not to open it before it is read."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class BucketSource:
    """Random access to the records of one split and bucket, in the order of the units of work; can be pickled.

    A record that is damaged on the disk is skipped: the next good one takes its place.
    """

    def __init__(self, folder: Path, split: str, shards: Sequence[Shard], corrupt: CorruptRecords):
        """Opens files only when a record of theirs is first read.

        Args:
            folder: that the files are in.
            split: which of the records to show, one of `SPLITS`.
            shards: those of one bucket that have records of the split.
            corrupt: counts damaged records, of all sources of the split together.
        """
        self.bucket = shards[0].bucket
        self._shards, self._corrupt = shards, corrupt
        files: Any = [_WholeFile(str(folder / s.name), 0, s.records, s.records) for s in shards]
        self._records: Any = grain.sources.ArrayRecordDataSource(files)
        self._starts = np.cumsum([0, *(shard.records for shard in shards)])  # of each file, among all records
        held_out = [start + np.array(s.held_out_positions, int) for start, s in zip(self._starts, shards, strict=False)]
        self._held_out = np.concatenate(held_out)
        self._training = split == TRAIN
        self._skipped: dict[int, object] = {}

    def __len__(self) -> int:
        held_out = len(self._held_out)
        return len(self._records) - held_out if self._training else held_out

    def __repr__(self) -> str:
        return f"BucketSource({len(self)} images of {self.bucket[0]}x{self.bucket[1]} pixels)"

    @property
    def num_corrupt(self) -> int:
        """Distinct damaged records met so far, in this process."""
        return len(self._skipped)

    def __getitem__(self, index: int) -> PreparedSample:
        """Returns record `index`, or the next good one if it is damaged.

        Raises:
            CorruptDataError: too large a share of the split's records is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {self!r}")
        while (sample := self._read(self._position(index))) is None:
            index = (index + 1) % len(self)
        return sample

    def _position(self, index: int) -> int:
        """Returns where a record of the split is among all records of the files."""
        if not self._training:
            return int(self._held_out[index])
        before = self._held_out - np.arange(len(self._held_out))  # training records in front of each held-out one
        return index + int(np.searchsorted(before, index, side="right"))

    def _read(self, position: int) -> PreparedSample | None:
        if position in self._skipped:
            return None
        try:
            return PreparedSample.unpack(self._records[position])
        except DAMAGED as error:
            self._skipped[position] = error
            file = int(np.searchsorted(self._starts, position, side="right")) - 1
            self._corrupt.add(f"{position - self._starts[file]} of {self._shards[file].name}", error)
            return None


class PreparedData:
    """A folder made by `nami_jax.prepare`, checked against the config of the run that is to train on it."""

    def __init__(self, data: DataConfig):
        """Opens `data.prepared`, on a local (or mounted) disk.

        Raises:
            ConfigError: the folder is missing, unfinished or damaged, or was prepared for other sizes.
        """
        self._data, self.folder = data, Path(str(data.prepared))
        path = self.folder / SETTINGS_FILE
        self._require(path.is_file(), f"has no {SETTINGS_FILE}", f"First {AGAIN}")
        self.settings = Prepared.from_json(read_bytes(path, f"To make it again, {AGAIN}"), str(path))
        self._require_same("data.buckets", sorted(data.bucket_sizes), sorted(self.settings.buckets))
        self.shards = self._complete_shards()

    def require_flow(self, cfg: Config, fingerprint: str | None) -> None:
        """Checks that a flow can train on the data.

        Args:
            cfg: the run.
            fingerprint: of its autoencoder; None for a flow of pixels.

        Raises:
            ConfigError: it cannot; the message names the first setting that does not fit.
        """
        found = self.settings
        self._require(
            found.text_encoder is not None, "was prepared without states of its captions", f"Set another and {AGAIN}"
        )
        self._require_kind(fingerprint is None)
        for field, value, prepared in (
            ("data.caption_templates", cfg.data.caption_templates, found.caption_templates),
            ("autoencoder.downscale", cfg.autoencoder.downscale, found.downscale),
            ("model.channels", cfg.model.channels, found.channels),
            ("text.max_length", cfg.text.max_length, found.max_length),
            ("model.text_dim", cfg.model.text_dim, found.text_dim),
            ("model.pooled_dim", cfg.model.pooled_dim, found.pooled_dim),
        ):
            self._require_same(field, value, prepared)
        require(
            cfg.data.lower_stages == "latents" or found.lower_levels >= cfg.model.num_stages - 1,
            field="data.lower_stages",
            value=cfg.data.lower_stages,
            rule=f"{cfg.model.num_stages} stages need the latents of {cfg.model.num_stages - 1} smaller sizes, and "
            f"{self.folder} holds those of {found.lower_levels}",
            remedy=f"Set 'latents', or another data.prepared and {AGAIN}",
        )
        require(
            found.autoencoder == fingerprint,
            field="autoencoder.folder",
            value=cfg.autoencoder.folder,
            rule=f"the latents in {self.folder} were made by another autoencoder, {found.autoencoder}",
            remedy=f"Set that autoencoder's folder, or another data.prepared and {AGAIN}",
        )
        try:
            encoder = encoder_id(cfg.text)
        except (ConfigError, ModuleNotFoundError) as error:  # training on prepared data needs no text encoder
            logging.warning(
                "Cannot tell whether %s was prepared with the text encoder of this config: %s", self.folder, error
            )
            return
        self._require_same("text", encoder, found.text_encoder)

    def require_pixels(self) -> None:
        """Checks that an autoencoder can train on the data; raises `ConfigError` if they are latents."""
        self._require_kind(True)

    def sources(self, split: str) -> list[BucketSource]:
        """Returns one source for each bucket that has records, in the order of the config.

        Args:
            split: "train" or "held_out", of which the latter may have none.

        Raises:
            ConfigError: there are no records to train on.
        """
        counts = [
            len(s.held_out_positions) if split == HELD_OUT else s.records - len(s.held_out_positions)
            for s in self.shards
        ]
        self._require(
            split != TRAIN or sum(counts) > 0, "has no records to train on", f"Set another and {AGAIN} and more images"
        )
        again = f"Remove {self.folder} and {AGAIN}"
        corrupt = CorruptRecords(f"{self.folder} ({split})", sum(counts), self._data, again)
        sources = []
        for bucket in self._data.bucket_sizes:
            shards = [s for s, count in zip(self.shards, counts, strict=True) if count and s.bucket == bucket]
            if shards:
                sources.append(BucketSource(self.folder, split, shards, corrupt))
            else:
                logging.info("%s: no images of %dx%d pixels in %s.", self.folder, *bucket, split)
        return sources

    @property
    def empty(self) -> TextStates:
        """The states of the empty caption: embeds (1, T, D) and pooled (1, P), float32; `ConfigError` if damaged."""
        path = self.folder / EMPTY_FILE
        return unpack_states(read_bytes(path, f"To make it again, {AGAIN}"), self.settings, str(path))

    def _complete_shards(self) -> list[Shard]:
        """Reads the index; raises `ConfigError` if it, or a file that it names, is missing."""
        path, units = self.folder / INDEX_FILE, self.settings.units
        if not path.is_file():
            done = sum((self.folder / manifest_name(unit)).is_file() for unit in range(units))
            self._require(
                False, f"only {done} of {units} units of work are done, or no {INDEX_FILE}", f"To continue, {AGAIN}"
            )
        shards = Index.from_json(read_bytes(path, f"To make it again, {AGAIN}"), str(path)).shards
        for shard in shards:
            file = self.folder / shard.name
            self._require(
                file.is_file() and file.stat().st_size == shard.bytes,
                f"{shard.name} is missing or damaged",
                f"Remove {self.folder / manifest_name(shard.unit)} and {AGAIN}",
            )
        return shards

    def _require_kind(self, pixels: bool) -> None:
        kinds = {True: "pixels", False: "latents"}
        self._require(
            (self.settings.autoencoder is None) == pixels,
            f"holds {kinds[not pixels]}, and the run is one of {kinds[pixels]}",
            f"Set another and {AGAIN}",
        )

    def _require_same(self, field: str, value: Any, found: Any) -> None:
        require(
            value == found,
            field=field,
            value=value,
            rule=f"{self.folder} was prepared with {found!r}",
            remedy=f"Set that value, or another data.prepared and {AGAIN}",
        )

    def _require(self, condition: bool, rule: str, remedy: str) -> None:
        require(condition, field="data.prepared", value=str(self.folder), rule=rule, remedy=remedy)


def named_set(cfg: DataConfig) -> DataConfig | None:
    """Returns data as the set of tensorflow-datasets that they are, or were prepared from, cropped to squares.

    None for prepared data of another source, and for those that are no longer there. The set is the one that was
    prepared, which need not be the config's; folders that do not name it are taken for the config's.

    Raises:
        ConfigError: prepared data are damaged.
    """
    if cfg.prepared is None:
        return cfg
    path = Path(cfg.prepared) / SETTINGS_FILE
    if not path.is_file():
        return None
    found = Prepared.from_json(read_bytes(path, f"To make it again, {AGAIN}"), str(path))
    if found.source != TFDS:
        return None
    return dataclasses.replace(cfg, name=found.source_set or cfg.name, prepared=None, buckets=None)
