"""What a unit of work has left, as its manifest says: files, the ids in them, and the records that were left out."""

import json
from collections.abc import Sequence
from typing import NamedTuple, Self

import pydantic

from nami_jax.config import ConfigError
from nami_jax.data.prepared_format import AGAIN, Shard, manifest_name
from nami_jax.preparation import beam_files as files
from nami_jax.preparation.errors import Reject
from nami_jax.preparation.sources import Unit


class Manifest(NamedTuple):
    """The content of a manifest."""

    shards: list[Shard]
    ids: list[list[str]]  # of the records in each of them
    rejects: list[Reject]

    def to_json(self) -> str:
        """Returns what `from_json` reads."""
        shards, rejects = ([entry._asdict() for entry in entries] for entries in (self.shards, self.rejects))
        return json.dumps({"shards": shards, "ids": self.ids, "rejects": rejects}, indent=1) + "\n"

    @classmethod
    def from_json(cls, content: bytes, path: str) -> Self:
        """Reads the manifest at `path`; raises `ConfigError` if it is damaged."""
        try:
            manifest = pydantic.TypeAdapter(cls).validate_json(content)
        except pydantic.ValidationError as error:
            raise ConfigError(f"{path} is damaged: {error.errors()[0]['msg']}. Remove it and {AGAIN}.") from error
        if [len(ids) for ids in manifest.ids] != [shard.records for shard in manifest.shards]:
            raise ConfigError(f"{path} is damaged: it does not name each record. Remove it and {AGAIN}.")
        return manifest


def read_manifests(out: str, units: Sequence[Unit]) -> list[Manifest]:
    """Returns the manifests of all units, in order; raises `ConfigError` if one is damaged."""
    paths = [files.join(out, manifest_name(unit.index)) for unit in units]
    return [Manifest.from_json(files.read(path), path) for path in paths]
