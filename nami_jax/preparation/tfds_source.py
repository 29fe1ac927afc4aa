"""Any tensorflow-datasets data set, by the features and splits that the config names."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from nami_jax.config import DataConfig
from nami_jax.data.captioned_images import CaptionedImages
from nami_jax.data.prepared_format import SPLITS, TFDS
from nami_jax.data.tfds_builder import feature_value, open_records, prepared_builder
from nami_jax.preparation.errors import Reject
from nami_jax.preparation.sources import Item, Unit, UnitList


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """The training split of a data set becomes `train`, its evaluation split `held_out`.

    A record's id is its split, in tensorflow-datasets' notation, and its position there.
    """

    kind: ClassVar[str] = TFDS
    own_splits: ClassVar[bool] = True
    data: DataConfig

    def plan(self, unit_size: int) -> UnitList:
        """Cuts both splits into runs of records; the data set is prepared first if it is absent."""
        units: list[Unit] = []
        facts: list[Any] = [self.data.image_key, self.data.caption_key]
        for part in SPLITS:
            split = self._tfds_split(part)
            total = len(_records(self.data, split)[0])
            facts += [prepared_builder(self.data, split).info.full_name, split, total]
            for start in range(0, total, unit_size):
                stop = min(start + unit_size, total)
                units.append(Unit(len(units), part, start, stop, start, stop - start))
        return UnitList(units, hashlib.sha256(repr(facts).encode()).hexdigest())

    def read(self, unit: Unit) -> Iterator[Item | Reject]:
        """Yields the records of a unit."""
        split = self._tfds_split(unit.part)
        records, class_names = _records(self.data, split)
        plain = dataclasses.replace(self.data, caption_templates=("{}",))
        for number in range(unit.start, unit.stop):
            record, record_id = records[number], f"{split}/{number}"
            try:
                captions = CaptionedImages([record], plain, class_names).captions(0)
            except UnicodeDecodeError as error:
                yield Reject(record_id, "text is not UTF-8", str(error))
                continue
            image = feature_value(record, self.data.image_key)
            found = tuple(caption for caption in captions if caption)
            yield Item(record_id, functools.partial(bytes, image), found, len(image))

    def split(self, unit: Unit) -> str:
        """Returns the split that the unit is part of."""
        return unit.part

    def _tfds_split(self, part: str) -> str:
        return self.data.train_split if part == SPLITS[0] else self.data.eval_split


@functools.cache
def _records(data: DataConfig, split: str) -> tuple[Sequence[Mapping[str, Any]], Sequence[str] | None]:
    return open_records(data, split)
