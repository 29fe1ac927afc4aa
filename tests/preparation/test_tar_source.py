import errno
import io
import json
import tarfile
import time
from pathlib import Path

import pytest

from nami_jax.preparation.errors import PreparationError, Reject
from nami_jax.preparation.sources import Item
from nami_jax.preparation.tar_source import MAX_MEMBERS, TarSource, groups
from tests.preparation.conftest import png

Members = list[tuple[str, bytes] | tarfile.TarInfo]


def write_tar(path: Path, members: Members, kind: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=kind) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def sample(key: str, caption: str = "red") -> Members:
    about = json.dumps({"caption": caption, "width": 24}).encode()
    return [(f"{key}.jpg", png()), (f"{key}.json", about), (f"{key}.txt", caption.encode())]


def read_all(folder: Path, unit_size: int = 2, names: tuple[str, ...] = ("0.tar",)) -> list[Item | Reject]:
    source = TarSource(str(folder), names)
    return [record for unit in source.plan(unit_size).units for record in source.read(unit)]


def reasons(records: list[Item | Reject]) -> dict[str, str]:
    return {record.id: record.reason if isinstance(record, Reject) else "" for record in records}


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("unit_size", [1, 2, 5, 100])
def test_every_record_is_read_once_whatever_the_units(tmp_path, kind, unit_size):
    keys = [
        "000",
        "a/001",
        f"{'long' * 20}/{'name' * 30}/002" if kind != tarfile.USTAR_FORMAT else "b/002",
        "003",
        "004",
    ]
    members = [special("a", tarfile.DIRTYPE), *(m for key in keys for m in sample(key)), special("z", tarfile.DIRTYPE)]
    write_tar(tmp_path / "0.tar", members, kind)
    write_tar(tmp_path / "1.tar", sample("000"), kind)
    records = read_all(tmp_path, unit_size, ("0.tar", "1.tar"))
    assert [record.id for record in records] == [*(f"0.tar/{key}" for key in keys), "1.tar/000"]
    for record in records:
        assert isinstance(record, Item)
        assert record.captions == ("red",)
        assert record.load() == png()
    counts = [unit.count for unit in TarSource(str(tmp_path), ("0.tar", "1.tar")).plan(unit_size).units]
    assert sum(counts) == 6
    assert max(counts) <= unit_size


def test_captions_come_from_the_json_or_else_from_the_text(tmp_path):
    members: Members = [
        ("0.png", png()), ("0.txt", "grün".encode()),
        ("1.webp", png()), ("1.json", b'{"caption": ["a", "b"]}'), ("1.txt", b"c"),
        ("2.jpeg", png()), ("2.json", b'{"caption": null}'), ("2.txt", b" d \n"),
        ("3.JPG", png()), ("3.json", b'{"url": "x"}'),
        ("4.jpg", png()), ("4.cls", b"7"),
    ]  # fmt: skip
    write_tar(tmp_path / "0.tar", members)
    captions = {record.id: record.captions for record in read_all(tmp_path) if isinstance(record, Item)}
    assert captions == {"0.tar/0": ("grün",), "0.tar/1": ("a", "b"), "0.tar/2": ("d",), "0.tar/3": (), "0.tar/4": ()}


def test_hostile_members_are_rejected_and_the_others_read(tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(png())
    members: Members = [
        *sample("good"),
        *sample("../up"),
        *sample("/root"),
        special("link.jpg", tarfile.SYMTYPE, str(secret)), ("link.txt", b"x"),
        special("hard.jpg", tarfile.LNKTYPE, "good.jpg"), ("hard.txt", b"x"),
        special("device.jpg", tarfile.CHRTYPE), ("device.txt", b"x"),
        special("pipe.jpg", tarfile.FIFOTYPE), ("pipe.txt", b"x"),
        special("text.txt", tarfile.SYMTYPE, "/etc/passwd"), ("text.jpg", png()),
        *sample("last"),
    ]  # fmt: skip
    write_tar(tmp_path / "0.tar", members)
    unsafe = {f"0.tar/{key}": "unsafe path" for key in ("../up", "/root", "link", "hard", "device", "pipe", "text")}
    assert reasons(read_all(tmp_path)) == {"0.tar/good": "", "0.tar/last": "", **unsafe}


def test_bad_records_are_rejected_with_their_reason(tmp_path):
    members: Members = [
        ("0.txt", b"no image"),
        ("1.jpg", png()), ("1.json", b"{"),
        ("2.jpg", png()), ("2.json", b'{"caption": ' + b"[" * 100_000),
        ("3.jpg", png()), ("3.txt", b"\xff"),
        ("4.jpg", png()), ("4.json", b'{"caption": 4}'),
        ("5.jpg", png()), ("5.json", b'{"caption": "\\udfff"}'),
    ]  # fmt: skip
    write_tar(tmp_path / "0.tar", members)
    expected = [
        "no image",
        "broken JSON",
        "broken JSON",
        "text is not UTF-8",
        "caption is not text",
        "text is not UTF-8",
    ]
    assert list(reasons(read_all(tmp_path)).values()) == expected


def test_a_name_counts_once_in_a_tar(tmp_path):
    write_tar(tmp_path / "0.tar", [*sample("a"), *sample("a"), *sample("b"), *sample("a")])
    records = read_all(tmp_path)
    assert [(record.id, isinstance(record, Item)) for record in records] == [
        ("0.tar/a", True), ("0.tar/a", False), ("0.tar/b", True), ("0.tar/a", False),
    ]  # fmt: skip
    assert {record.reason for record in records if isinstance(record, Reject)} == {"duplicate id"}


def test_names_of_one_key_and_many_endings_take_linear_time(tmp_path):
    write_tar(tmp_path / "0.tar", [(f"frame.{i:07d}.jpg", b"") for i in range(20_000)], tarfile.USTAR_FORMAT)
    before = time.process_time()
    records = read_all(tmp_path, 256)
    assert time.process_time() - before < 20  # a minute and more, when each member copied those before it
    assert len(records) == 20_000 // MAX_MEMBERS
    first = records[0]
    assert isinstance(first, Reject)
    assert first.reason == "no image"
    assert first.detail.endswith("0000004.jpg, …: a record's name ends at its first dot")


def test_a_sparse_member_is_not_blown_up(tmp_path):
    info = tarfile.TarInfo("0.jpg")
    info.size = 1024
    # A pax header that says: these 1024 bytes are the map and data of a file of 8 TB.
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(8 * 1024**4)}
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(b"1\n0\n512\n".ljust(1024, b"\0")))
    assert reasons(read_all(tmp_path)) == {"0.tar/0": "unsafe path"}


def whole_and_cut(tmp_path: Path, keep: int) -> list[Item | Reject]:
    write_tar(tmp_path / "0.tar", [*sample("0"), *sample("1"), *sample("2")])
    content = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(content[:keep])
    return read_all(tmp_path)


@pytest.mark.parametrize(
    ("keep", "read"),
    [
        (6 * 1024 + 540, ["0.tar/0", "0.tar/1"]),  # in the data of 2.jpg
        (4 * 1024 + 540, ["0.tar/0", "0.tar/1"]),  # in that of 1.json: 1 is left without a caption
        (3 * 1024 + 100, ["0.tar/0"]),  # in the header of 1.jpg
        (512, []),
        (0, []),
    ],
)
def test_of_a_truncated_tar_what_is_whole_is_read(tmp_path, keep, read):
    # Each member is a header and a block of data: 1024 bytes, three of them a record.
    *records, last = whole_and_cut(tmp_path, keep)
    assert isinstance(last, Reject)
    assert (last.id, last.reason) == ("0.tar", "damaged tar")
    assert [record.id for record in records if isinstance(record, Item)] == read


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    write_tar(tmp_path / "0.tar", [*sample("0"), *sample("1")])
    content = bytearray((tmp_path / "0.tar").read_bytes())
    content[3 * 1024 : 3 * 1024 + 512] = b"x" * 512
    (tmp_path / "0.tar").write_bytes(content)
    assert reasons(read_all(tmp_path)) == {"0.tar/0": "", "0.tar": "damaged tar"}


def test_a_tar_without_its_closing_blocks_is_whole(tmp_path):
    assert reasons(whole_and_cut(tmp_path, 9 * 1024)) == {"0.tar/0": "", "0.tar/1": "", "0.tar/2": ""}


def test_an_empty_tar_holds_nothing(tmp_path):
    write_tar(tmp_path / "0.tar", [])
    assert read_all(tmp_path) == []


def test_the_digest_changes_with_names_and_sizes(tmp_path):
    digests = set()
    for members in (sample("0"), sample("1"), sample("0", "blue"), [*sample("0"), *sample("1")]):
        write_tar(tmp_path / "0.tar", members)
        digests.add(TarSource(str(tmp_path), ("0.tar",)).plan(2).digest)
    assert len(digests) == 4


class Failing(io.BytesIO):
    """A file on a disk that fails behind its first thousand bytes."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 1000:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)


def test_a_disk_that_fails_is_not_taken_for_a_damaged_tar(tmp_path):
    write_tar(tmp_path / "0.tar", [*sample("0"), *sample("1")])
    with pytest.raises(OSError, match="Input/output error"):
        list(groups(Failing((tmp_path / "0.tar").read_bytes())))


def test_a_tar_that_cannot_be_read_stops_the_run(tmp_path):
    write_tar(tmp_path / "0.tar", sample("0"))
    source = TarSource(str(tmp_path), ("0.tar",))
    (unit,) = source.plan(1).units
    (tmp_path / "0.tar").unlink()
    for reading in (lambda: source.plan(1), lambda: list(source.read(unit))):
        with pytest.raises(PreparationError, match=r"0\.tar cannot be read: .*Rerun the same command"):
            reading()


def test_a_tar_that_changes_after_planning_stops_the_run(tmp_path):
    write_tar(tmp_path / "0.tar", [*sample("0"), *sample("1")])
    source = TarSource(str(tmp_path), ("0.tar",))
    units = source.plan(1).units
    (tmp_path / "0.tar").write_bytes(b"x" * 5000)
    with pytest.raises(PreparationError, match=r"0\.tar has changed"):
        list(source.read(units[1]))
