"""Records that cannot be read: skipped, counted, and too many of them the end of a run."""

from collections.abc import Hashable

from absl import logging

from nami_jax.config import DataConfig


class CorruptDataError(RuntimeError):
    """More records of the data set cannot be read than `data.max_corrupt_share` allows."""


class CorruptRecords:
    """Those met so far, in this process, of a data set or a split of it; threads may share it."""

    def __init__(self, name: str, total: int, data: DataConfig, remedy: str):
        """Counts from 0.

        Args:
            name: of the data set, for people.
            total: records that there are.
            data: says which share of them to tolerate.
            remedy: what to do if there are more, as a clause.
        """
        self._name, self._total, self._remedy = name, total, remedy
        self._tolerated = data.max_corrupt_share
        self._met: dict[Hashable, object] = {}

    def __contains__(self, record: Hashable) -> bool:
        return record in self._met

    def __len__(self) -> int:
        return len(self._met)

    def add(self, record: Hashable, error: BaseException) -> None:
        """Notes that a record cannot be read; says so once.

        Raises:
            CorruptDataError: it is one too many.
        """
        mine = object()
        if self._met.setdefault(record, mine) is mine:  # once, also when two threads meet the record
            logging.warning("%s: record %s is corrupt and skipped: %s", self._name, record, error)
        if len(self) > self._tolerated * self._total:
            raise CorruptDataError(
                f"{self._name}: {len(self)} of {self._total} images cannot be read, more than data.max_corrupt_share "
                f"= {self._tolerated}. The last: record {record}: {error}. {self._remedy}, or raise "
                "data.max_corrupt_share."
            ) from error
