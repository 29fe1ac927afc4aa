"""Random access to the decoded images and captions of any tensorflow-datasets data set.

`source[i]` depends on `i` only, so any order and position can be resumed.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from nami_jax.config import DataConfig
from nami_jax.data.corruption import CorruptRecords
from nami_jax.data.images import BrokenImageError, decode_image
from nami_jax.data.tfds_builder import feature_value, open_records

# What reading a record raises that is damaged on the disk, and decoding one that was never whole.
CORRUPT = (BrokenImageError, UnicodeDecodeError, RuntimeError)


class Sample(TypedDict):
    """One element of `CaptionedImages`."""

    image: np.ndarray  # (side, side, 3) uint8
    captions: tuple[str, ...]  # every caption in every template; at least one


class CaptionedImages:
    """The images of a data set with their captions.

    A record whose image or captions cannot be read is skipped: the next good one takes its place, so that the positions
    of all others stay what they are. Captions that are empty or blank are dropped; an image without any caption has the
    single caption "", the one that guidance uses for "no text", outside every template.
    """

    def __init__(self, records: Sequence[Mapping[str, Any]], cfg: DataConfig, class_names: Sequence[str] | None = None):
        """Wraps decoded records.

        Args:
            records: features by name, the image as its encoded bytes, texts as bytes.
            cfg: names the two features, the side, the templates, the share of corrupt images to tolerate.
            class_names: of the caption's class label, if it is one; underscores read as spaces.
        """
        self._records = records
        self._cfg = cfg
        self._class_names = class_names
        self._cache: dict[int, Sample] = {}
        again = f"Prepare the data set again (remove its folder in {cfg.data_dir})"
        self._corrupt = CorruptRecords(cfg.name, len(records), cfg, again)

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"CaptionedImages({self._cfg.name!r}, {len(self)} images of side {self._cfg.side})"

    @property
    def num_corrupt(self) -> int:
        """Distinct corrupt records met so far, in this process."""
        return len(self._corrupt)

    def __getitem__(self, index: int) -> Sample:
        """Returns record `index`, or the next good one if it is corrupt.

        Raises:
            CorruptDataError: too large a share of the records is corrupt.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {self!r}")
        while (sample := self._cache.get(index) or self._read(index)) is None:
            index = (index + 1) % len(self)
        return sample

    def captions(self, index: int) -> tuple[str, ...]:
        """Returns all captions of record `index` in all templates, without decoding its image."""
        return self._captions(self._records[index])

    def _read(self, index: int) -> Sample | None:
        if index in self._corrupt:
            return None
        try:
            record = self._records[index]
            image = decode_image(feature_value(record, self._cfg.image_key), self._cfg.side)
            sample = Sample(image=image, captions=self._captions(record))
        except CORRUPT as error:
            self._corrupt.add(index, error)
            return None
        if len(self._cache) < self._cfg.cache_images:
            self._cache[index] = sample
        return sample

    def _captions(self, record: Mapping[str, Any]) -> tuple[str, ...]:
        value = feature_value(record, self._cfg.caption_key)
        values = value if isinstance(value, list | tuple | np.ndarray) and np.ndim(value) else [value]
        texts = [text for text in map(self._text, values) if text]
        templates = self._cfg.caption_templates
        return tuple(dict.fromkeys(t.replace("{}", text) for text in texts for t in templates)) or ("",)

    def _text(self, value: Any) -> str:
        if self._class_names is not None:
            return self._class_names[int(value)].replace("_", " ").strip()
        return (value.decode() if isinstance(value, bytes) else str(value)).strip()


def open_source(cfg: DataConfig, split: str) -> CaptionedImages:
    """Opens a split of the configured data set, preparing the data set first if it is absent.

    Args:
        cfg: which data set, and what of it.
        split: in tensorflow-datasets' notation, e.g. "train" or "train[:90%]"; `cfg.train_split` or `cfg.eval_split`.

    Raises:
        ConfigError: a name in `cfg`, or `split`, does not exist; raised before anything is downloaded where possible.
    """
    records, class_names = open_records(cfg, split)
    return CaptionedImages(records, cfg, class_names)


def all_captions(source: CaptionedImages) -> list[str]:
    """Returns every caption that `source` can return, in every template, once and sorted; decodes no image."""
    captions = set[str]()
    for index in range(len(source)):
        with contextlib.suppress(*CORRUPT):  # the record is skipped, and counted when it is met
            captions.update(source.captions(index))
    return sorted(captions)
