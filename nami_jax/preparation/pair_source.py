"""A folder of images, each with its caption in a text beside it: `a/b.png` and `a/b.txt`."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from typing import ClassVar

from nami_jax.data.prepared_format import TRAIN
from nami_jax.preparation import beam_files as files
from nami_jax.preparation.errors import Reject, RejectedError
from nami_jax.preparation.folder_source import read_inside
from nami_jax.preparation.sources import (
    IMAGE_ENDINGS,
    Item,
    Unit,
    UnitList,
    clean_captions,
    decode_text,
    printable,
)


@dataclasses.dataclass(frozen=True)
class PairSource:
    """All images at any depth, by their names. A record's id is the name of its image; an image may have no text."""

    kind: ClassVar[str] = "pairs"
    own_splits: ClassVar[bool] = False
    folder: str

    def plan(self, unit_size: int) -> UnitList:
        """Lists the folder and reads the texts."""
        found, digest = files.files_below(self.folder), hashlib.sha256()
        names = [name for name in found if is_image(name)]
        for name in names:
            digest.update(os.fsencode(name))
            try:
                digest.update(repr(self._captions(name)).encode())
            except RejectedError as error:
                digest.update(error.reason.encode())
        units = []
        for start in range(0, len(names), unit_size):
            some = tuple(map(os.fsencode, names[start : start + unit_size]))
            units.append(Unit(len(units), self.folder, start, start + len(some), start, len(some), names=some))
        return UnitList(units, digest.hexdigest())

    def read(self, unit: Unit) -> Iterator[Item | Reject]:
        """Yields the records of a unit; their images are opened only when they are loaded."""
        for name in map(os.fsdecode, unit.names):
            try:
                captions = self._captions(name)
                yield Item(printable(name), functools.partial(read_inside, self.folder, name), captions)
            except RejectedError as error:
                yield Reject(printable(name), error.reason, error.detail)

    def _captions(self, name: str) -> tuple[str, ...]:
        """Returns the text beside an image; none if there is no such file."""
        path = f"{os.path.splitext(name)[0]}.txt"
        if not files.exists(files.join(self.folder, path)):
            return ()
        return clean_captions(decode_text(read_inside(self.folder, path)))

    def split(self, unit: Unit) -> str:
        """Returns `TRAIN`: what is held out is drawn later."""
        return TRAIN


def is_image(name: str) -> bool:
    """Returns whether a file's name ends as an image's does."""
    return os.path.splitext(name)[1].lower().removeprefix(".") in IMAGE_ENDINGS
