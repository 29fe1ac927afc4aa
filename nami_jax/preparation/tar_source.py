"""WebDataset tars as img2dataset writes them: `000.jpg` beside `000.txt` and `000.json`, many in each tar."""

import dataclasses
import errno
import functools
import hashlib
import posixpath
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar, NamedTuple

from nami_jax.data.prepared_format import TRAIN
from nami_jax.preparation import beam_files as files
from nami_jax.preparation.errors import PreparationError, Reject, RejectedError
from nami_jax.preparation.sources import (
    IMAGE_ENDINGS,
    MAX_FILE_BYTES,
    Item,
    Unit,
    UnitList,
    clean_captions,
    decode_text,
    parse_json,
    printable,
)

BLOCK = 512  # of a tar, bytes
MAX_MEMBERS = 1000  # of a record; what follows under the same name counts as another


class Group(NamedTuple):
    """Members that follow one another with the same name up to its first dot."""

    key: str
    members: dict[str, tarfile.TarInfo]  # by ending
    stop: int  # first byte after them


@dataclasses.dataclass(frozen=True)
class TarSource:
    """Plain tars. A record's id is the tar's name and the members' common name; nothing is ever unpacked to disk.

    A unit is a run of records, by the bytes where they begin and end in their tar.
    """

    kind: ClassVar[str] = "tars"
    own_splits: ClassVar[bool] = False
    folder: str  # that all names are below
    names: tuple[str, ...]  # sorted

    def plan(self, unit_size: int) -> UnitList:
        """Reads the headers of all tars."""
        digest = hashlib.sha256()
        units: list[Unit] = []
        for name in self.names:
            units += self._plan_tar(name, unit_size, len(units), digest)
        return UnitList(units, digest.hexdigest())

    def _plan_tar(self, name: str, unit_size: int, index: int, digest: Any) -> list[Unit]:
        units, seen, start, number, damage = [], set[str](), 0, -1, ""
        with files.reading(files.join(self.folder, name)) as file:
            try:
                for number, group in enumerate(groups(file)):
                    sizes = sorted((ending, member.size) for ending, member in group.members.items())
                    digest.update(repr((name, group.key, sizes)).encode("utf-8", "backslashreplace"))
                    if not units or units[-1].count == unit_size:
                        units.append(Unit(index + len(units), name, start, start, number, 0))
                    units[-1] = units[-1].grown(group.stop, (number,) if group.key in seen else ())
                    seen.add(group.key)
                    start = group.stop
            except RejectedError as error:
                damage = error.detail
                digest.update(damage.encode())
        if damage and not units:
            units.append(Unit(index, name, start, start, 0, 0))
        if damage:
            units[-1] = units[-1]._replace(damage=f"{damage} after record {number + 1}")
        return units

    def read(self, unit: Unit) -> Iterator[Item | Reject]:
        """Yields the records of a unit, reading images as it goes."""
        with files.reading(files.join(self.folder, unit.part)) as file:
            found = groups(file, unit.start, unit.stop) if unit.count else iter(())
            try:
                for number, group in enumerate(found, start=unit.first):
                    record_id = printable(f"{unit.part}/{group.key}")
                    if number in unit.duplicates:
                        yield Reject(record_id, "duplicate id", f"record {number + 1} of {unit.part}")
                    else:
                        yield read_group(file, group, record_id)
            except RejectedError as error:
                raise PreparationError(f"{unit.part} has changed: {error.detail}. Use another --out.") from error
        if unit.damage:
            yield Reject(unit.part, "damaged tar", unit.damage)

    def split(self, unit: Unit) -> str:
        """Returns `TRAIN`: what is held out is drawn later."""
        return TRAIN


def groups(file: BinaryIO, start: int = 0, stop: int | None = None) -> Iterator[Group]:
    """Yields the records of a tar, or of a part of it.

    Args:
        file: the tar.
        start: byte at which a record begins.
        stop: byte at which another ends; None reads all of the tar and checks that it ends as it should.

    Raises:
        RejectedError: the tar is damaged; what comes before the damage has been yielded.
        OSError: it cannot be read now.
    """
    size = file.seek(0, 2)
    file.seek(start)
    group: Group | None = None
    try:
        for member, end in _members(file, size, stop):
            key, ending = split_name(member.name)
            if group is not None and (key != group.key or ending in group.members or len(group.members) == MAX_MEMBERS):
                yield group
                group = None
            group = Group(key, group.members if group else {}, end)
            group.members[ending] = member
    except RejectedError:
        if group is not None:  # a record that has lost its caption to the damage will be rejected for that
            yield group
        raise
    if group is not None:
        yield group


def _members(file: BinaryIO, size: int, stop: int | None) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Yields what a tar of `size` bytes holds besides folders, each with the byte at which it ends."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  (it would remember all of them)
                end = min(tar.offset, member.offset_data + member.size)  # the padding may be missing
                if member.size < 0 or tar.offset <= member.offset or end > size:
                    raise RejectedError("damaged tar", f"{printable(member.name)} is truncated")
                if not member.isdir():
                    yield member, tar.offset
                if stop is not None and tar.offset >= stop:
                    return
            file.seek(tar.offset)
            if file.read(BLOCK).strip(b"\0"):  # tarfile takes a damaged header for the end
                raise RejectedError("damaged tar", f"no header at byte {tar.offset}")
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        # A disk or network that fails says nothing of the tar; EINVAL is a damaged header pointing to nowhere.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise RejectedError("damaged tar", str(error)) from error


def split_name(name: str) -> tuple[str, str]:
    """Returns the key and the ending of a member: "a/b.seg.png" is "a/b" and "seg.png"."""
    folder, base = posixpath.split(name)
    stem, _, ending = base.partition(".")
    return posixpath.join(folder, stem), ending.lower()


def read_group(file: BinaryIO, group: Group, record_id: str) -> Item | Reject:
    """Reads the image and captions of a record; a hostile or malformed one is rejected."""
    try:
        for member in group.members.values():
            if posixpath.isabs(member.name) or ".." in member.name.split("/"):
                raise RejectedError("unsafe path", printable(member.name))
            if not member.isreg() or member.issparse():
                raise RejectedError("unsafe path", f"{printable(member.name)} is not a regular file")
        image = next((group.members[ending] for ending in IMAGE_ENDINGS if ending in group.members), None)
        if image is None:
            some = [*map(printable, list(group.members)[:5]), *(["…"] if len(group.members) > 5 else [])]
            raise RejectedError("no image", f"only {', '.join(some)}: a record's name ends at its first dot")
        captions = _captions(file, group.members)
        content = _content(file, image)
        return Item(record_id, functools.partial(bytes, content), captions, len(content))
    except RejectedError as error:
        return Reject(record_id, error.reason, error.detail)


def _captions(file: BinaryIO, members: dict[str, tarfile.TarInfo]) -> tuple[str, ...]:
    """Returns the captions of the .json, or if it has none the text of the .txt."""
    captions: tuple[str, ...] = ()
    if "json" in members:
        fields = parse_json(_content(file, members["json"]))
        captions = clean_captions(fields.get("caption") if isinstance(fields, dict) else None)
    if not captions and "txt" in members:
        captions = clean_captions(decode_text(_content(file, members["txt"])))
    return captions


def _content(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_FILE_BYTES:
        raise RejectedError("file too large", f"{member.size} bytes; at most {MAX_FILE_BYTES} are allowed")
    file.seek(member.offset_data)
    return file.read(member.size)
