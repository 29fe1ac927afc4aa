"""Determines which kind of source `--source` names."""

import dataclasses
import os
from collections.abc import Iterable

from nami_jax.config import ConfigError, DataConfig, require
from nami_jax.data.tfds_builder import NAME, prepared_builder
from nami_jax.preparation import beam_files as files
from nami_jax.preparation.folder_source import LINES, METADATA, ROWS, FolderSource
from nami_jax.preparation.pair_source import PairSource, is_image
from nami_jax.preparation.sources import RecordSource
from nami_jax.preparation.tar_source import TarSource
from nami_jax.preparation.tfds_source import TfdsSource

KINDS = (
    f"Pass a folder of images that contains {LINES}, {ROWS} or a .txt beside each image; a folder, a tar file or a "
    "pattern such as 'data/*.tar' of WebDataset tars; or the name of a tensorflow-datasets data set"
)


def find_source(source: str, data: DataConfig) -> RecordSource:
    """Returns the source that a text names.

    Args:
        source: what the user gave.
        data: of the config; says which features and splits of a tensorflow-datasets set to take.

    Raises:
        ConfigError: it names nothing, or is ambiguous.
    """
    if os.path.isdir(source):
        return _in_folder(source)
    if any(sign in source for sign in "*?["):
        return _tars(source, files.match(source))
    if source.endswith(".tar"):
        return _tars(source, [source] if files.is_file(source) else [])
    if files.is_remote(source):
        return _in_folder(source)
    named = NAME.fullmatch(source) is not None
    require(named, field="source", value=source, rule="no such folder, file or data set", remedy=KINDS)
    data = dataclasses.replace(data, name=source)
    try:
        prepared_builder(data, data.train_split)
    except ConfigError as error:
        raise ConfigError(f"source = {source!r}: no such folder, and not usable as a data set: {error}") from error
    return TfdsSource(data)


def _in_folder(folder: str) -> RecordSource:
    names = files.listing(folder)
    listed, tars = [n for n in METADATA if n in names], [files.join(folder, n) for n in names if n.endswith(".tar")]
    require(
        len(listed) + bool(tars) <= 1,
        field="source",
        value=folder,
        rule=f"contains both {' and '.join([*listed, *(['tars'] if tars else [])])}",
        remedy=f"Keep one of them, or pass {files.join(folder, '*.tar')!r} for the tars",
    )
    if listed:
        return FolderSource(folder, listed[0])
    if tars:
        return _tars(folder, tars)
    require(
        any(map(is_image, files.files_below(folder))),
        field="source",
        value=folder,
        rule=f"contains neither images nor {', '.join(METADATA)} or tars",
        remedy=KINDS,
    )
    return PairSource(folder)


def _tars(source: str, found: Iterable[str]) -> RecordSource:
    paths = sorted(path for path in found if path.endswith(".tar"))
    require(bool(paths), field="source", value=source, rule="matches no file that ends in .tar", remedy=KINDS)
    prefix = os.path.commonprefix(paths)  # noqa: RUF071  (cut at a slash below; commonpath would break "gs://")
    folder = prefix[: prefix.rfind("/") + 1]  # that all are in: ids do not depend on where it lies
    return TarSource(folder, tuple(path.removeprefix(folder) for path in paths))
