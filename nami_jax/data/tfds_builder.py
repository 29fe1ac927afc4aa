"""Finds or builds a tensorflow-datasets data set on disk, after checking everything a user can get wrong about it.

The data set's name and the names of its two features are checked before anything is built or downloaded, the split as
soon as its names are known.
"""

import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

import nami_jax.data.emoji_captions  # noqa: F401  (registers the builder, so that its name is known)
from nami_jax.config import ConfigError, DataConfig, nearest, require, shown
from nami_jax.files.output_folder import make_folder

FORMAT = "array_record"  # the one format of tensorflow-datasets with random access and without tensorflow
NAME = re.compile(r"[a-zA-Z]\w*(/[\w.+-]+)?(:[\d.*]+)?")  # of a set, its config and its version
Feature = tfds.features.FeatureConnector


def prepared_builder(cfg: DataConfig, split: str) -> tfds.core.DatasetBuilder:
    """Returns the builder of `cfg.name` with its data in `cfg.data_dir`, prepared now if it was not there.

    tensorflow-datasets prepares in a folder of its own and renames it at the end, so a preparation that was interrupted
    is never read. Of several processes that prepare on one disk, the first to finish serves all.

    Raises:
        ConfigError: `data.name`, `data.image_key`, `data.caption_key` or `split` does not exist or cannot be
            used, or the set cannot be stored in `data.data_dir`.
    """
    builder = _find_builder(cfg)
    image_feature(cfg, builder)
    caption_feature(cfg, builder)
    if not builder.is_prepared():
        if "://" not in cfg.data_dir:
            make_folder(Path(cfg.data_dir), field="data.data_dir")
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()  # which would be drawn over and over in a log
        download_config = tfds.download.DownloadConfig(try_download_gcs=False)
        try:
            builder.download_and_prepare(download_config=download_config, file_format=FORMAT)
        except FileExistsError:
            builder = _find_builder(cfg)  # another process was faster
        except ModuleNotFoundError as error:
            raise ConfigError(_missing_package(cfg, error)) from error
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise ConfigError(
            f"data.name = {cfg.name!r}: {builder.data_path} has it as {builder.info.file_format}, which allows no "
            f"random access. Remove that folder, or set another data.data_dir, to have it prepared as {FORMAT}."
        )
    _require_split(cfg, builder, split)
    return builder


def is_prepared(cfg: DataConfig) -> bool:
    """Returns whether the data set is in `cfg.data_dir` already; raises `ConfigError` if its name is unknown."""
    return _find_builder(cfg).is_prepared()


def stated_license(cfg: DataConfig) -> str | None:
    """Returns the licence that a data set states; None if it states none, or is not known here."""
    try:
        return _find_builder(cfg).info.redistribution_info.license.strip() or None
    except ConfigError:
        return None


def _find_builder(cfg: DataConfig) -> tfds.core.DatasetBuilder:
    # Sets of other hubs, "huggingface:…", would be looked for on the network, and need packages that are not here.
    require(
        NAME.fullmatch(cfg.name) is not None,
        field="data.name",
        value=cfg.name,
        rule='is not the name of a tensorflow-datasets set, "name", "name/config" or either with ":version"',
        remedy="Set such a name, or prepare a folder of your own images and set data.prepared",
    )
    try:
        return tfds.builder(cfg.name, data_dir=cfg.data_dir)
    except ValueError as error:
        raise ConfigError(f"data.name = {cfg.name!r}: {_what_exists(cfg.name)}") from error
    except ModuleNotFoundError as error:
        raise ConfigError(_missing_package(cfg, error)) from error
    except (ImportError, RuntimeError) as error:  # of a file system that is not known, or whose driver is not installed
        if "://" not in cfg.data_dir:
            raise
        reason = str(error).strip().rpartition("\n")[2].rpartition(": ")[2]
        raise ConfigError(
            f"data.data_dir = {shown(cfg.data_dir)}: this file system cannot be used here ({reason}). Install its "
            "driver, or set a local folder, e.g. 'data'."
        ) from error
    except AssertionError as error:  # what tensorflow-datasets raises for a version that does not exist
        raise ConfigError(f"data.name = {cfg.name!r}: {error} Name an existing version, or none.") from error


def _missing_package(cfg: DataConfig, error: ModuleNotFoundError) -> str:
    """Says that the code of a data set needs a package that is not installed; for many sets that is tensorflow."""
    return (
        f"data.name = {cfg.name!r}: its builder needs a Python package that is missing: {error}. Install it, or "
        f"prepare the data elsewhere as {FORMAT}, copy it into {cfg.data_dir} and set data.name to 'name:1.0.0'."
    )


def _what_exists(name: str) -> str:
    """Returns what is wrong with a name that tensorflow-datasets does not know, and the nearest that it does know."""
    name, _, config = name.partition(":")[0].partition("/")
    known = tfds.list_builders(with_community_datasets=False)
    if name in known:
        return f"{name} has no config {config!r}.{nearest(config, list(tfds.builder_cls(name).builder_configs))}"
    close = difflib.get_close_matches(name, known)
    hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else "tfds.list_builders() lists what exists."
    return f"no such tensorflow-datasets data set. {hint}"


def _require_split(cfg: DataConfig, builder: tfds.core.DatasetBuilder, split: str) -> None:
    fields = {"data.train_split": cfg.train_split, "data.eval_split": cfg.eval_split}
    field = next((name for name, value in fields.items() if value == split), "split")
    try:
        size = builder.info.splits[split].num_examples  # below 0 for one that runs backwards
    except ValueError as error:
        whole = split.partition("[")[0]
        if whole in builder.info.splits:
            hint = f" {whole!r} has {builder.info.splits[whole].num_examples} images; a part is {whole + '[:90%]'!r}."
        else:
            hint = nearest(whole, list(builder.info.splits))
        raise ConfigError(f"{field} = {shown(split)}: no such split of {cfg.name}.{hint}") from error
    if size <= 0:  # less where it ends before it begins
        raise ConfigError(
            f"{field} = {shown(split)}: contains no images. Set a split, or a part of one, that is not empty."
        )


def open_records(cfg: DataConfig, split: str) -> tuple[Sequence[Mapping[str, Any]], Sequence[str] | None]:
    """Opens a split, preparing the data set first if it is absent.

    Returns:
        Its records, with images as their encoded bytes and texts as bytes; and the names of the classes if the caption
        is a class label.

    Raises:
        ConfigError: as `prepared_builder`.
    """
    builder = prepared_builder(cfg, split)
    label = caption_feature(cfg, builder)
    decoders: Any = tfds.decode.SkipDecoding()  # Pillow decodes, so that a corrupt image can be told from a missing one
    for name in reversed(cfg.image_key.split("/")):
        decoders = {name: decoders}
    records: Any = builder.as_data_source(split=split, decoders=decoders)  # pyright: ignore[reportCallIssue]
    return records, label.names if isinstance(label, tfds.features.ClassLabel) else None


def feature_value(record: Mapping[str, Any], key: str) -> Any:
    """Returns a record's feature; "a/b" looks inside `a`."""
    value: Any = record
    for name in key.split("/"):
        value = value[name]
    return value


def image_feature(cfg: DataConfig, builder: tfds.core.DatasetBuilder) -> Feature:
    """Returns the feature that `data.image_key` names, an image; raises `ConfigError` if there is none."""
    return _feature(builder, "data.image_key", cfg.image_key, (tfds.features.Image,))


def caption_feature(cfg: DataConfig, builder: tfds.core.DatasetBuilder) -> Feature:
    """Returns the text or class label that `data.caption_key` names, alone or in a sequence; else `ConfigError`."""
    texts = (tfds.features.Text, tfds.features.ClassLabel)
    return _element(_feature(builder, "data.caption_key", cfg.caption_key, texts, in_sequence=True))


def _feature(
    builder: tfds.core.DatasetBuilder, field: str, key: str, kinds: tuple[type, ...], in_sequence: bool = False
) -> Feature:
    features = dict(_flatten(builder.info.features))
    fit = [name for name, f in features.items() if isinstance(_element(f) if in_sequence else f, kinds)]
    if key not in features:
        raise ConfigError(f"{field} = {key!r}: {builder.name} has no such feature.{nearest(key, list(features))}")
    if key not in fit:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ConfigError(f"{field} = {key!r}: must be {wanted}, not {type(features[key]).__name__}. Set one of {fit}.")
    return features[key]


def _flatten(features: Any, prefix: str = "") -> Iterator[tuple[str, Feature]]:
    """Yields every feature with its key; "captions/text" is the text in each element of the sequence `captions`."""
    inside = _element(features)
    if isinstance(inside, tfds.features.FeaturesDict):
        for name, feature in inside.items():
            yield from _flatten(feature, f"{prefix}{name}/")
    else:
        yield prefix.removesuffix("/"), features


def _element(feature: Feature) -> Feature:
    return feature.feature if isinstance(feature, tfds.features.Sequence) else feature
