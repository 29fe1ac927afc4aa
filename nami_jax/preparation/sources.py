"""What data are prepared from: any source is cut into units of work, and a unit is read record by record.

Units are read on any machine, so sources are small and can be pickled.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, Protocol

from nami_jax.preparation.errors import Reject, RejectedError

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
MAX_FILE_BYTES = 256 * 1024**2  # of one image; a larger file is left out unread


class Unit(NamedTuple):
    """A unit of work: records that follow one another in one file or split."""

    index: int
    part: str  # the file or split they lie in
    start: int  # where they begin there: a byte of a file, a record of a split
    stop: int
    first: int  # number of the first record in `part`, from 0; of the first line, for a file of lines
    count: int  # records
    duplicates: tuple[int, ...] = ()  # numbers of records whose id an earlier record has
    damage: str = ""  # why `part` cannot be read beyond this unit
    names: tuple[bytes, ...] = ()  # of files, as the disk has them, where no file lists them

    def grown(self, stop: int, repeated: tuple[int, ...]) -> "Unit":
        """Returns the unit with one more record, which ends at `stop` and whose number is `repeated` if its id is."""
        return self._replace(stop=stop, count=self.count + 1, duplicates=self.duplicates + repeated)


class UnitList(NamedTuple):
    """All units of work of a source."""

    units: list[Unit]
    digest: str  # changes with the list of records


class Item(NamedTuple):
    """A record as it is found. `load` returns its encoded image, or raises `RejectedError`."""

    id: str
    load: Callable[[], bytes]
    captions: tuple[str, ...]
    held: int = 0  # bytes of the image that are in memory before it is loaded


class RecordSource(Protocol):
    """Where records come from."""

    kind: ClassVar[str]
    own_splits: ClassVar[bool]  # whether it says itself what is held out

    def plan(self, unit_size: int) -> UnitList:
        """Cuts the source into units of at most `unit_size` records, always in the same way."""
        ...

    def read(self, unit: Unit) -> Iterator[Item | Reject]:
        """Yields the records of a unit, `unit.count` of them, in order."""
        ...

    def split(self, unit: Unit) -> str:
        """Returns the split, one of `SPLITS`, that a unit belongs to; `TRAIN` if the source has none of its own."""
        ...


def printable(name: str) -> str:
    """Returns a name with bytes that are not UTF-8, which Python keeps as lone surrogates, spelt out."""
    return name.encode("utf-8", "backslashreplace").decode()


def decode_text(content: bytes) -> str:
    """Returns the text that anyone's file holds; raises `RejectedError` if it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RejectedError("text is not UTF-8", str(error)) from error


def parse_json(content: bytes) -> Any:
    """Parses JSON from anyone; raises `RejectedError` if it is broken, not UTF-8, or nested too deeply."""
    try:
        return json.loads(decode_text(content))
    except (ValueError, RecursionError) as error:
        raise RejectedError("broken JSON", str(error)) from error


def clean_captions(value: Any) -> tuple[str, ...]:
    """Returns the captions in a field, a text, a list of texts or nothing; blank ones are dropped.

    Raises:
        RejectedError: it is something else, or contains text that is not valid Unicode.
    """
    texts = value if isinstance(value, list) else [] if value is None else [value]
    for text in texts:
        if not isinstance(text, str):
            raise RejectedError("caption is not text", f"{text!r:.80}")
        try:
            text.encode()
        except UnicodeEncodeError as error:  # a lone surrogate, which JSON can hold
            raise RejectedError("text is not UTF-8", str(error)) from error
    return tuple(text.strip() for text in texts if text.strip())
