"""A folder of images with a `metadata.jsonl` beside them: one line for each image, with its name and its captions."""

import dataclasses
import errno
import functools
import hashlib
import os
import posixpath
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from nami_jax.preparation import beam_files as files
from nami_jax.preparation.errors import Reject, RejectedError
from nami_jax.preparation.sources import (
    MAX_FILE_BYTES,
    Item,
    Unit,
    UnitList,
    clean_captions,
    parse_json,
    printable,
    split_by_hash,
)

METADATA = "metadata.jsonl"
CAPTION_FIELDS = ("text", "caption")
# What opening a missing file, or something that is not a file, raises. Other failures may pass: they reject no record.
NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
NO_FILE_NUMBERS = (errno.ELOOP, errno.ENAMETOOLONG)


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """Lines such as `{"file_name": "a/b.png", "text": "a red apple"}`; "caption" and lists of texts count too.

    A record's id is the name of its image. A unit is a run of lines, by where they begin and end in the file.
    """

    kind: ClassVar[str] = "folder"
    folder: str
    eval_share: float

    def plan(self, unit_size: int) -> UnitList:
        """Reads through the lines once. Blank lines are not records."""
        digest, seen, position = hashlib.sha256(), set[str](), 0
        units: list[Unit] = []
        with files.reading(files.join(self.folder, METADATA)) as lines:
            for number, line in enumerate(lines):
                digest.update(line)
                if line.strip():
                    if not units or units[-1].count == unit_size:
                        units.append(Unit(len(units), METADATA, position, position, number, 0))
                    name, repeated = _file_name(line), ()
                    if name is not None:
                        repeated = (number,) if name in seen else ()
                        seen.add(name)
                    units[-1] = units[-1].grown(position + len(line), repeated)
                position += len(line)
        return UnitList(units, digest.hexdigest())

    def read(self, unit: Unit) -> Iterator[Item | Reject]:
        """Yields the records of a unit; their images are opened only when they are loaded."""
        with files.reading(files.join(self.folder, METADATA)) as file:
            file.seek(unit.start)
            lines = file.read(unit.stop - unit.start).split(b"\n")
        for number, line in enumerate(lines, start=unit.first):
            if line.strip():
                yield self._record(line, number, number in unit.duplicates)

    def _record(self, line: bytes, number: int, repeated: bool) -> Item | Reject:
        record_id = where = f"{METADATA}:{number + 1}"
        try:
            record_id, value = parse_line(line)
            if repeated:
                raise RejectedError("duplicate id", where)
            return Item(record_id, functools.partial(read_inside, self.folder, record_id), clean_captions(value))
        except RejectedError as error:
            return Reject(record_id, error.reason, error.detail)

    def split(self, unit: Unit, record_id: str) -> str:
        """Draws the split by the record's id."""
        return split_by_hash(record_id, self.eval_share)


def parse_line(line: bytes) -> tuple[str, Any]:
    """Returns the image's name, in its shortest form, and its captions as they stand; raises `RejectedError`."""
    fields = parse_json(line)
    name = fields.get("file_name") if isinstance(fields, dict) else None
    if not isinstance(name, str) or not name:
        raise RejectedError("broken JSON", 'no "file_name"')
    captions = next((fields[key] for key in CAPTION_FIELDS if fields.get(key) is not None), None)
    return printable(posixpath.normpath(name)), captions


def _file_name(line: bytes) -> str | None:
    try:
        return parse_line(line)[0]
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
