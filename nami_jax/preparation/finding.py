"""Determines which kind of source `--source` names."""

import dataclasses
import os
import re
from collections.abc import Iterable

from nami_jax.config import ConfigError, DataConfig, require
from nami_jax.data.tfds_builder import prepared_builder
from nami_jax.preparation import beam_files as files
from nami_jax.preparation.folder_source import METADATA, FolderSource
from nami_jax.preparation.sources import RecordSource
from nami_jax.preparation.tar_source import TarSource
from nami_jax.preparation.tfds_source import TfdsSource

TFDS_NAME = re.compile(r"[a-zA-Z]\w*(/[\w.+-]+)?(:[\d.*]+)?")
KINDS = (
    f"Pass a folder that contains {METADATA} and images, a folder, a tar file or a pattern such as "
    "'data/*.tar' of WebDataset tars, or the name of a tensorflow-datasets data set"
)


def find_source(source: str, data: DataConfig, eval_share: float) -> RecordSource:
    """Returns the source that a text names.

    Args:
        source: what the user gave.
        data: of the config; says which features and splits of a tensorflow-datasets set to take.
        eval_share: of the records of a folder or tars to hold out.

    Raises:
        ConfigError: it names nothing, or is ambiguous.
    """
    if os.path.isdir(source):
        return _in_folder(source, eval_share)
    if any(sign in source for sign in "*?["):
        return _tars(source, files.match(source), eval_share)
    if source.endswith(".tar"):
        return _tars(source, [source] if files.exists(source) else [], eval_share)
    if files.is_remote(source):
        return _in_folder(source, eval_share)
    named = TFDS_NAME.fullmatch(source) is not None
    require(named, field="source", value=source, rule="no such folder, file or data set", remedy=KINDS)
    data = dataclasses.replace(data, name=source)
    try:
        prepared_builder(data, data.train_split)
    except ConfigError as error:
        raise ConfigError(f"source = {source!r}: no such folder, and not usable as a data set: {error}") from error
    return TfdsSource(data)


def _in_folder(folder: str, eval_share: float) -> RecordSource:
    names = files.listing(folder)
    lines, tars = METADATA in names, [files.join(folder, name) for name in names if name.endswith(".tar")]
    require(
        not (lines and tars),
        field="source",
        value=folder,
        rule=f"contains both {METADATA} and tars",
        remedy=f"Pass {files.join(folder, '*.tar')!r}, or move the tars away",
    )
    require(
        bool(lines or tars),
        field="source",
        value=folder,
        rule=f"contains neither {METADATA} nor tars",
        remedy=KINDS,
    )
    return FolderSource(folder, eval_share) if lines else _tars(folder, tars, eval_share)


def _tars(source: str, found: Iterable[str], eval_share: float) -> RecordSource:
    paths = sorted(path for path in found if path.endswith(".tar"))
    require(bool(paths), field="source", value=source, rule="matches no file that ends in .tar", remedy=KINDS)
    prefix = os.path.commonprefix(paths)  # noqa: RUF071  (cut at a slash below; commonpath would break "gs://")
    folder = prefix[: prefix.rfind("/") + 1]  # that all are in: ids do not depend on where it lies
    return TarSource(folder, tuple(path.removeprefix(folder) for path in paths), eval_share)
