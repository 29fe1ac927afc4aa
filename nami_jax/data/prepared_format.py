"""The format of prepared data: pictures and text states on disk, written by `nami_jax.preparation`.

A picture is stored as its latents or, for a run that has no autoencoder, as its pixels. A folder contains

- `prepared.json`: everything the data depend on (`Prepared`), written first;
- `data/`: ArrayRecord files, each of one unit of work and one bucket of (height, width);
- `manifests/000017.json`: the files of unit 17, the ids in them and what the unit left out, written once these files
  are complete. Only the preparation reads them. A file that no manifest names is never read, so whatever an
  interrupted preparation left behind is ignored;
- `index.json`: the files of all units and which of their records are held out (`Index`), written last;
- `empty.msgpack`: the states of the empty caption, for classifier-free guidance.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, Self

import ml_dtypes
import numpy as np
import pydantic
from flax.serialization import msgpack_restore, msgpack_serialize

from nami_jax.config import ConfigError, Settings, require
from nami_jax.config.settings import settings
from nami_jax.files.json_files import parse_json
from nami_jax.text.encoders import TextStates

TFDS = "tfds"  # the kind of source that is a set of tensorflow-datasets
FORMAT = 2  # of everything below; changing it makes older folders unreadable
SETTINGS_FILE, INDEX_FILE, EMPTY_FILE = "prepared.json", "index.json", "empty.msgpack"
MANIFESTS, DATA = "manifests", "data"
SPLITS = TRAIN, HELD_OUT = ("train", "held_out")
AGAIN = "run `python -m nami_jax.prepare` with this config"

Bucket = tuple[int, int]  # (height, width), pixels


class PreparedSample(NamedTuple):
    """One picture at the last stage's size, with N captions, the templates filled in."""

    id: str
    captions: tuple[str, ...]  # none blank; at least one, unless the run needs no texts
    image: np.ndarray  # (H, W, 3) uint8; or latents (h, w, C) float32 of 8 bits of precision: stored in bfloat16
    text_embeds: Any  # (N, T, D) bfloat16; None for a run that needs no texts
    pooled: Any  # (N, P) float32: small beside the embeds, and it steers every block
    lower: tuple[np.ndarray, ...] = ()  # as `image`, of the picture pooled by 2, 4, ... in pixels before it was encoded

    def pack(self) -> bytes:
        """Returns the record that `unpack` reads."""
        fields: dict[str, Any] = self._asdict() | {"captions": list(self.captions)}
        for name in ("image", "text_embeds"):
            if fields[name] is not None and fields[name].dtype != np.uint8:
                fields[name] = fields[name].astype(ml_dtypes.bfloat16)
        del fields["lower"]
        if self.lower:
            fields["lower"] = [latents.astype(ml_dtypes.bfloat16) for latents in self.lower]
        return msgpack_serialize(fields)

    @classmethod
    def unpack(cls, record: bytes) -> Self:
        """Reads a record."""
        fields: Any = msgpack_restore(record)
        if fields["image"].dtype != np.uint8:
            fields["image"] = fields["image"].astype(np.float32)
        lower = tuple(latents.astype(np.float32) for latents in fields.get("lower", ()))
        return cls(**fields | {"captions": tuple(fields["captions"]), "lower": lower})


@settings(remedy=f"Remove its folder and {AGAIN}")
class Prepared(Settings):
    """Everything that prepared data depend on: a run that continues them, or trains on them, must agree with it."""

    source: str  # its kind, such as "folder" or TFDS
    source_digest: str  # of the list of records
    records: int  # in the source, good and bad
    unit_size: int  # records of a unit of work
    units: Annotated[int, pydantic.Field(ge=0, le=10**6)]
    buckets: tuple[tuple[int, int], ...]
    max_upscale: float  # images that would have to be enlarged more are left out
    max_pixels: int  # and larger ones too
    autoencoder: str | None  # its fingerprint; None: pixels are stored
    downscale: int  # pixels per entry, each way
    channels: int  # C
    text_encoder: str | None  # its id; None: without states of texts, for an autoencoder to train on
    max_length: int | None  # T
    text_dim: int | None  # D
    pooled_dim: int | None  # P
    dtype: str  # in which autoencoder and text encoder computed
    caption_templates: tuple[str, ...]
    # The name of a TFDS source's set, which older folders lack: the digest is what tells sources apart.
    source_set: str | None = dataclasses.field(default=None, compare=False)
    lower_levels: int = 0  # sizes below the image's own of which there are latents, each half of the one above
    format: int = FORMAT

    def to_json(self) -> str:
        """Returns the content of `prepared.json`."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

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
    """An ArrayRecord file."""

    name: str  # below the folder, e.g. "data/train-48x80-000017-5e7d0c1a.arrayrecord": split, bucket, unit, attempt
    unit: int
    split: str  # in the source; one without splits of its own has "train" alone
    bucket: Bucket
    records: int
    bytes: int
    held_out: tuple[int, ...] = ()  # positions of the training records that were drawn to be held out, ascending

    @property
    def held_out_positions(self) -> Sequence[int]:
        """The positions in the file of all records that are held out."""
        return range(self.records) if self.split == HELD_OUT else self.held_out


class Index(NamedTuple):
    """What a finished preparation offers to training."""

    shards: list[Shard]  # by unit

    def to_json(self) -> str:
        """Returns the content of `index.json`."""
        return json.dumps({"shards": [shard._asdict() for shard in self.shards]}, indent=1) + "\n"

    @classmethod
    def from_json(cls, content: bytes, path: str) -> Self:
        """Reads the `index.json` at `path`; raises `ConfigError` if it is damaged."""
        try:
            return pydantic.TypeAdapter(cls).validate_json(content)
        except pydantic.ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise ConfigError(
                f"{path} is damaged: {where or 'content'}: {problem['msg']}. Remove it and {AGAIN}."
            ) from error


def manifest_name(unit: int) -> str:
    """Returns the path of a unit's manifest, relative to the folder."""
    return f"{MANIFESTS}/{unit:06d}.json"


def pack_states(states: TextStates) -> bytes:
    """Returns the content of `empty.msgpack`."""
    return msgpack_serialize(states._asdict())


def unpack_states(content: bytes, prepared: Prepared, path: str) -> TextStates:
    """Reads the `empty.msgpack` at `path`, of the sizes that `prepared` names.

    Returns:
        Embeds (1, T, D) and pooled (1, P), float32.

    Raises:
        ConfigError: it is damaged.
    """
    shapes = {"embeds": (1, prepared.max_length, prepared.text_dim), "pooled": (1, prepared.pooled_dim)}
    try:
        states: Any = msgpack_restore(content)
        found = {name: (array.shape, array.dtype, bool(np.isfinite(array).all())) for name, array in states.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged: {error}. To make it again, {AGAIN}.") from error
    require(
        found == {name: (shape, np.dtype(np.float32), True) for name, shape in shapes.items()},
        field=path,
        value={name: array.shape for name, array in states.items()},
        rule=f"must be finite states of shapes {shapes}",
        remedy=f"To make it again, {AGAIN}",
    )
    return TextStates(**states)
