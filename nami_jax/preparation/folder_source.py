"""A folder of images with a list of them: `metadata.jsonl`, a line for each, or `metadata.csv`, a row for each."""

import csv
import dataclasses
import errno
import functools
import hashlib
import io
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from nami_jax.config import require
from nami_jax.data.prepared_format import TRAIN
from nami_jax.preparation import beam_files as files
from nami_jax.preparation.errors import Reject, RejectedError
from nami_jax.preparation.sources import (
    MAX_FILE_BYTES,
    Item,
    Unit,
    UnitList,
    clean_captions,
    decode_text,
    parse_json,
    printable,
)

LINES, ROWS = METADATA = ("metadata.jsonl", "metadata.csv")
NAME_FIELD, CAPTION_FIELDS = "file_name", ("text", "caption")
MAX_ROW = 1024**2  # bytes; a quotation mark that is never closed does not swallow the rest of a file
# What opening a missing file, or something that is not a file, raises. Other failures may pass: they reject no record.
NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
NO_FILE_NUMBERS = (errno.ELOOP, errno.ENAMETOOLONG)


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """Lines such as `{"file_name": "a/b.png", "text": "a red apple"}`; "caption" and lists of texts count too.

    In a CSV the first row names the columns. A record's id is the name of its image. A unit is a run of lines, by where
    they begin and end in the file.
    """

    kind: ClassVar[str] = "folder"
    own_splits: ClassVar[bool] = False
    folder: str
    metadata: str = LINES  # one of METADATA

    def plan(self, unit_size: int) -> UnitList:
        """Reads through the lines once. Blank lines are not records.

        Raises:
            ConfigError: a CSV has no column for the images' names.
        """
        digest, seen, position, columns = hashlib.sha256(), set[str](), 0, None
        units: list[Unit] = []
        with files.reading(files.join(self.folder, self.metadata)) as lines:
            for number, line in enumerate(self._records(lines)):
                digest.update(line)
                if self.metadata == ROWS and number == 0:
                    columns = self._columns(line)
                elif line.strip():
                    if not units or units[-1].count == unit_size:
                        units.append(Unit(len(units), self.metadata, position, position, number, 0))
                    name, repeated = _file_name(line, columns), ()
                    if name is not None:
                        repeated = (number,) if name in seen else ()
                        seen.add(name)
                    units[-1] = units[-1].grown(position + len(line), repeated)
                position += len(line)
        return UnitList(units, digest.hexdigest())

    def read(self, unit: Unit) -> Iterator[Item | Reject]:
        """Yields the records of a unit; their images are opened only when they are loaded."""
        with files.reading(files.join(self.folder, self.metadata)) as file:
            columns = self._columns(next(self._records(file))) if self.metadata == ROWS else None
            file.seek(unit.start)
            lines = io.BytesIO(file.read(unit.stop - unit.start))
        for number, line in enumerate(self._records(lines), start=unit.first):
            if line.strip():
                yield self._record(line, columns, number, number in unit.duplicates)

    def _records(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        return rows_of(lines) if self.metadata == ROWS else iter(lines)

    def _columns(self, row: bytes) -> Sequence[str]:
        try:
            columns = [name.strip() for name in parse_row(row)]
        except RejectedError as error:
            columns = [f"{error.reason}: {error.detail}"]
        require(
            NAME_FIELD in columns,
            field="source",
            value=files.join(self.folder, self.metadata),
            rule=f"its first row names no column {NAME_FIELD!r}, but {columns}",
            remedy=f"Name the columns, e.g. {NAME_FIELD},{CAPTION_FIELDS[0]}, with commas between them",
        )
        return columns

    def _record(self, line: bytes, columns: Sequence[str] | None, number: int, repeated: bool) -> Item | Reject:
        record_id = where = f"{self.metadata}:{number + 1}"
        try:
            record_id, value = parse_line(line, columns)
            if repeated:
                raise RejectedError("duplicate id", where)
            return Item(record_id, functools.partial(read_inside, self.folder, record_id), clean_captions(value))
        except RejectedError as error:
            return Reject(record_id, error.reason, error.detail)

    def split(self, unit: Unit) -> str:
        """Returns `TRAIN`: what is held out is drawn later."""
        return TRAIN


def rows_of(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Puts together the lines of a CSV that are one row: those between two quotation marks."""
    held, size, opened = list[bytes](), 0, False
    for line in lines:
        held.append(line)
        size += len(line)
        opened ^= line.count(b'"') % 2 == 1
        if not opened or size > MAX_ROW:
            yield b"".join(held)
            held, size, opened = [], 0, False
    if held:
        yield b"".join(held)


def parse_row(row: bytes) -> list[str]:
    """Returns the cells of a row of a CSV; raises `RejectedError`."""
    try:
        (cells,) = csv.reader(io.StringIO(decode_text(row), newline=""), strict=True)
    except (csv.Error, ValueError) as error:
        raise RejectedError("broken CSV", str(error)) from error
    return cells


def parse_line(line: bytes, columns: Sequence[str] | None = None) -> tuple[str, Any]:
    """Returns the image's name, in its shortest form, and its captions as they stand; raises `RejectedError`.

    Args:
        line: JSON, or a row of a CSV.
        columns: of the CSV.
    """
    if columns is None:
        fields, broken = parse_json(line), "broken JSON"
    else:
        cells, broken = parse_row(line), "broken CSV"
        if len(cells) != len(columns):
            raise RejectedError(broken, f"{len(cells)} cells for {len(columns)} columns")
        fields = dict(zip(columns, cells, strict=True))
    name = fields.get(NAME_FIELD) if isinstance(fields, dict) else None
    if not isinstance(name, str) or not name:
        raise RejectedError(broken, f'no "{NAME_FIELD}"')
    captions = next((fields[key] for key in CAPTION_FIELDS if fields.get(key) is not None), None)
    return printable(posixpath.normpath(name)), captions


def _file_name(line: bytes, columns: Sequence[str] | None) -> str | None:
    try:
        return parse_line(line, columns)[0]
    except RejectedError:
        return None


def read_inside(folder: str, name: str) -> bytes:
    """Reads a file below a folder by an untrusted name.

    Raises:
        RejectedError: the name leads out of the folder, by `..`, by its root or by a link; or there is no such file, or
            it is not a regular file, or too large.
        PreparationError: it cannot be read now: no file handles are left, or the disk or network failed.
    """
    if posixpath.isabs(name) or ".." in name.split("/") or "\0" in name or files.is_remote(name):
        raise RejectedError("unsafe path", name)
    path = files.join(folder, name)
    try:
        if not files.is_remote(folder):
            _require_inside(folder, name, path)
        elif not files.exists(path):  # what opening it would raise differs from one file system to another
            raise RejectedError("missing file", name)
        with files.open_binary(path) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        if isinstance(error, NO_FILE) or error.errno in NO_FILE_NUMBERS:
            raise RejectedError("missing file", str(error)) from error
        raise files.cannot_read(path, error) from error
    if len(content) > MAX_FILE_BYTES:
        raise RejectedError("file too large", f"{name} has more than {MAX_FILE_BYTES} bytes")
    return content


def _require_inside(folder: str, name: str, path: str) -> None:
    try:
        inside = Path(path).resolve().is_relative_to(Path(folder).resolve())
    except RuntimeError as error:  # links in a circle, before Python 3.13
        raise RejectedError("missing file", str(error)) from error
    if not inside:
        raise RejectedError("unsafe path", f"{name} is a link that leads outside the folder")
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
        raise RejectedError("missing file", f"{name} is not a regular file")
