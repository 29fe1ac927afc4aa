"""Prepared data on disk: latents and text states that `nami_jax.preparation` wrote, read at random for training.

A folder contains

- `prepared.json`: everything the data depend on (`Prepared`), written first;
- `data/`: ArrayRecord files, each of one unit of work, one split and one bucket of (height, width);
- `manifests/000017.json`: the files of unit 17 and what it left out, written once these files are complete. A file
  that no manifest names is never read, so whatever an interrupted preparation left behind is ignored;
- `empty.msgpack`: the states of the empty caption, for classifier-free guidance.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import grain
import ml_dtypes
import numpy as np
import pydantic
from absl import logging
from flax.serialization import msgpack_restore, msgpack_serialize

from nami_jax.config import Config, ConfigError, Settings, require
from nami_jax.config.settings import settings
from nami_jax.files.json_files import parse_json, read_bytes
from nami_jax.text.encoder_files import encoder_id
from nami_jax.text.encoders import TextStates

FORMAT = 1  # of everything below; changing it makes older folders unreadable
SETTINGS_FILE, EMPTY_FILE, MANIFESTS, DATA = "prepared.json", "empty.msgpack", "manifests", "data"
SPLITS = ("train", "held_out")
AGAIN = "run `python -m nami_jax.prepare` with this config"

Bucket = tuple[int, int]  # (height, width), pixels


class LatentSample(NamedTuple):
    """One image: N captions, the templates filled in, and the latents at the last stage's size."""

    id: str
    captions: tuple[str, ...]  # at least one, none blank
    latents: np.ndarray  # (h, w, C) float32; 8 bits of precision, as they are stored in bfloat16
    text_embeds: np.ndarray  # (N, T, D) bfloat16
    pooled: np.ndarray  # (N, P) float32: small beside the embeds, and it steers every block

    def pack(self) -> bytes:
        """Returns the record that `unpack` reads."""
        fields: dict[str, Any] = self._asdict() | {"captions": list(self.captions)}
        for name in ("latents", "text_embeds"):
            fields[name] = fields[name].astype(ml_dtypes.bfloat16)
        return msgpack_serialize(fields)

    @classmethod
    def unpack(cls, record: bytes) -> Self:
        """Reads a record."""
        fields: Any = msgpack_restore(record)
        fields["latents"] = fields["latents"].astype(np.float32)
        return cls(**fields | {"captions": tuple(fields["captions"])})


@settings(remedy=f"Remove its folder and {AGAIN}")
class Prepared(Settings):
    """Everything that prepared data depend on: a run that continues them, or trains on them, must agree with it."""

    source: str  # "folder", "tars" or "tfds"
    source_digest: str  # of the list of records
    records: int  # in the source, good and bad
    unit_size: int  # records of a unit of work
    units: Annotated[int, pydantic.Field(ge=0, le=10**6)]
    eval_share: float | None  # of the records that are held out; None: the source has splits of its own
    buckets: tuple[Bucket, ...]
    max_upscale: float  # images that would have to be enlarged more are left out
    max_pixels: int  # and larger ones too
    autoencoder: str  # its fingerprint
    downscale: int
    channels: int  # C
    text_encoder: str  # its id
    max_length: int  # T
    text_dim: int  # D
    pooled_dim: int  # P
    dtype: str  # in which autoencoder and text encoder computed
    caption_templates: tuple[str, ...]
    format: int = FORMAT

    def to_json(self) -> str:
        """Returns the content of `prepared.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, content: str | bytes, path: str) -> Self:
        """Reads the `prepared.json` at `path`; raises `ConfigError` if it is damaged or of another format."""
        fields = parse_json(content, path, f"Remove its folder and {AGAIN}")
        found = fields.get("format")
        require(
            found == FORMAT,
            field=f"{path}: format",
            value=found,
            rule=f"this version reads format {FORMAT}",
            remedy=f"Set another data.prepared and {AGAIN}",
        )
        try:
            return cls.from_dict(fields)
        except ConfigError as error:
            raise ConfigError(f"{path} is damaged: {error}") from error


class Shard(NamedTuple):
    """An ArrayRecord file as a manifest lists it."""

    # Below the folder, e.g. "data/train-48x80-000017-5e7d0c1a.arrayrecord": split, bucket, unit, attempt.
    name: Annotated[str, pydantic.Field(max_length=200)]
    split: str
    bucket: Bucket
    records: int
    bytes: int


_SHARDS = pydantic.TypeAdapter(list[Shard], config=pydantic.ConfigDict(strict=True))


def manifest_name(unit: int) -> str:
    """Returns the path of a unit's manifest, relative to the folder."""
    return f"{MANIFESTS}/{unit:06d}.json"


def manifest_shards(manifest: dict[str, Any]) -> Iterator[Shard]:
    """Yields the files that a parsed manifest lists."""
    for fields in manifest["shards"]:
        yield Shard(**fields | {"bucket": tuple(fields["bucket"])})


def parse_manifest(content: bytes, path: str) -> dict[str, Any]:
    """Returns what the manifest at `path` says; raises `ConfigError` if it is damaged."""
    try:
        manifest = parse_json(content, path, f"Remove it and {AGAIN}")
        _ = _SHARDS.validate_python(list(manifest_shards(manifest))), list(manifest["rejects"])
    except ConfigError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, pydantic.ValidationError) else repr(error)
        raise ConfigError(f"{path} is damaged: {reason}. Remove it and {AGAIN}.") from error
    return manifest


class _WholeFile(NamedTuple):
    """What grain wants to know of a file so as not to open it before it is read."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class BucketSource:
    """Random access to the records of one split and bucket, in the order of the units of work; can be pickled."""

    def __init__(self, folder: Path, bucket: Bucket, shards: Sequence[Shard]):
        """Takes the shards of one bucket and split; files are opened when a record of theirs is first read."""
        self.bucket = bucket
        files: Any = [_WholeFile(str(folder / s.name), 0, s.records, s.records) for s in shards]
        self._records: Any = grain.sources.ArrayRecordDataSource(files)

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"BucketSource({len(self)} latents of images of {self.bucket[0]}x{self.bucket[1]} pixels)"

    def __getitem__(self, index: int) -> LatentSample:
        """Returns record `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {self!r}")
        return LatentSample.unpack(self._records[index])


class PreparedLatents:
    """A folder made by `nami_jax.prepare`, checked against the config of the run that is to train on it."""

    def __init__(self, folder: Path, cfg: Config):
        """Opens a folder on a local (or mounted) disk.

        Args:
            folder: usually `cfg.data.prepared`.
            cfg: the run.

        Raises:
            ConfigError: the folder is missing, unfinished or damaged, or was prepared for other settings.
        """
        self.folder = folder
        require(
            (folder / SETTINGS_FILE).is_file(),
            field="data.prepared",
            value=str(folder),
            rule=f"has no {SETTINGS_FILE}",
            remedy=f"First {AGAIN}",
        )
        path = folder / SETTINGS_FILE
        self.settings = Prepared.from_json(read_bytes(path, f"First {AGAIN}"), str(path))
        self._buckets = cfg.data.bucket_sizes
        _require_same(self.settings, cfg, folder)
        self._shards = self._complete_shards()

    def require_autoencoder(self, fingerprint: str) -> None:
        """Raises `ConfigError` unless the latents were made by the autoencoder of this fingerprint."""
        made_by = self.settings.autoencoder
        require(
            made_by == fingerprint,
            field="autoencoder.folder",
            value=fingerprint,
            rule=f"the latents in {self.folder} were made by another autoencoder, {made_by}",
            remedy=f"Set that autoencoder's folder, or another data.prepared and {AGAIN}",
        )

    def sources(self, split: str) -> list[BucketSource]:
        """Returns one source for each bucket that has records, in the order of the config.

        Args:
            split: "train" or "held_out".

        Raises:
            ConfigError: the split has no records at all.
        """
        sources = []
        for bucket in self._buckets:
            shards = [shard for shard in self._shards if (shard.split, shard.bucket) == (split, bucket)]
            if shards:
                sources.append(BucketSource(self.folder, bucket, shards))
            else:
                logging.info("%s: no images of %dx%d pixels in %s.", self.folder, *bucket, split)
        require(
            bool(sources),
            field="data.prepared",
            value=str(self.folder),
            rule=f"has no records of {split!r}",
            remedy=f"Set another data.prepared and {AGAIN} and more images, or a larger --eval_share",
        )
        return sources

    @property
    def empty(self) -> TextStates:
        """The states of the empty caption: embeds (1, T, D) and pooled (1, P), float32."""
        states: Any = msgpack_restore((self.folder / EMPTY_FILE).read_bytes())
        return TextStates(**states)

    def _complete_shards(self) -> list[Shard]:
        """Reads all manifests; raises `ConfigError` if one, or a file that one names, is missing."""
        paths = [self.folder / manifest_name(unit) for unit in range(self.settings.units)]
        done = [path for path in paths if path.is_file()]
        require(
            len(done) == len(paths),
            field="data.prepared",
            value=str(self.folder),
            rule=f"only {len(done)} of {len(paths)} units of work are done",
            remedy=f"To continue, {AGAIN}",
        )
        shards = []
        for path in done:
            for shard in manifest_shards(parse_manifest(read_bytes(path, f"To continue, {AGAIN}"), str(path))):
                file = self.folder / shard.name
                require(
                    file.is_file() and file.stat().st_size == shard.bytes,
                    field="data.prepared",
                    value=str(self.folder),
                    rule=f"{shard.name} is missing or damaged",
                    remedy=f"Remove {path} and {AGAIN}",
                )
                shards.append(shard)
        return shards


def _require_same(prepared: Prepared, cfg: Config, folder: Path) -> None:
    """Raises `ConfigError` naming the first setting of a run that does not fit the data in `folder`."""
    for field, value, found in (
        ("data.buckets", sorted(cfg.data.bucket_sizes), sorted(prepared.buckets)),
        ("data.caption_templates", cfg.data.caption_templates, prepared.caption_templates),
        ("autoencoder.downscale", cfg.autoencoder.downscale, prepared.downscale),
        ("model.channels", cfg.model.channels, prepared.channels),
        ("text.max_length", cfg.text.max_length, prepared.max_length),
        ("model.text_dim", cfg.model.text_dim, prepared.text_dim),
        ("model.pooled_dim", cfg.model.pooled_dim, prepared.pooled_dim),
    ):
        require(
            value == found,
            field=field,
            value=value,
            rule=f"{folder} was prepared with {found!r}",
            remedy=f"Set that value, or another data.prepared and {AGAIN}",
        )
    try:
        found = encoder_id(cfg.text)
    except (ConfigError, ModuleNotFoundError) as error:  # training on prepared data needs no text encoder
        logging.warning("Cannot tell whether %s was prepared with the text encoder of this config: %s", folder, error)
        return
    require(
        found == prepared.text_encoder,
        field="text",
        value=found,
        rule=f"{folder} was prepared with {prepared.text_encoder!r}",
        remedy=f"Set that text encoder, or another data.prepared and {AGAIN}",
    )
