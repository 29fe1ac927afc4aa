import json
import os
import pickle
import resource

import pytest

from nami_jax.config import ConfigError
from nami_jax.preparation.errors import PreparationError, Reject, RejectedError
from nami_jax.preparation.folder_source import MAX_ROW, FolderSource, read_inside
from nami_jax.preparation.sources import Item
from tests.preparation.conftest import png, write_lines


def read_all(source: FolderSource, unit_size: int) -> list[Item | Reject]:
    return [record for unit in source.plan(unit_size).units for record in source.read(unit)]


@pytest.fixture
def source(tmp_path):
    return FolderSource(str(tmp_path))


def test_texts_captions_and_lists_of_them_are_read(tmp_path, source):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.png").write_bytes(png())
    lines = [
        {"file_name": "a/b.png", "text": " red "},
        {"file_name": "1.png", "caption": ["ein Apfel", "", "a pear"]},
        {"file_name": "./2.png", "text": None, "caption": "über", "more": 1},
        {"file_name": "3.png"},
        {"file_name": "4.png", "text": "  "},
    ]
    write_lines(tmp_path, lines)
    records = read_all(source, 2)
    assert [(record.id, record.captions) for record in records if isinstance(record, Item)] == [
        ("a/b.png", ("red",)),
        ("1.png", ("ein Apfel", "a pear")),
        ("2.png", ("über",)),
        ("3.png", ()),
        ("4.png", ()),
    ]
    assert isinstance(records[0], Item)
    assert records[0].load() == png()


@pytest.mark.parametrize("unit_size", [1, 2, 3, 7, 100])
def test_units_hold_every_line_once_whatever_their_size(tmp_path, source, unit_size):
    lines = [json.dumps({"file_name": f"{i}.png", "text": "x" * i}).encode() for i in range(7)]
    (tmp_path / "metadata.jsonl").write_bytes(b"\n" + b"\r\n\n".join(lines))  # blank lines, no line break at the end
    plan = source.plan(unit_size)
    assert [unit.count for unit in plan.units] == [unit_size] * (7 // unit_size) + [7 % unit_size] * (7 % unit_size > 0)
    assert [unit.index for unit in plan.units] == list(range(len(plan.units)))
    assert [record.id for unit in plan.units for record in source.read(unit)] == [f"{i}.png" for i in range(7)]
    assert plan == source.plan(unit_size)
    assert plan.digest == source.plan(unit_size + 1).digest


def test_the_digest_changes_with_any_line(tmp_path, source):
    digests = set()
    for text in ("red", "rot"):
        write_lines(tmp_path, [{"file_name": "a.png", "text": text}])
        digests.add(source.plan(1).digest)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"file_name": "a.png"', "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b"[1]", "broken JSON"),
        (b'{"text": "no name"}', "broken JSON"),
        (b'{"file_name": 3, "text": "x"}', "broken JSON"),
        (b'{"file_name": "a.png", "text": "\xff"}', "text is not UTF-8"),
    ],
)
def test_bad_lines_are_rejected_by_their_number_and_the_others_read(tmp_path, source, line, reason):
    write_lines(tmp_path, [{"file_name": "1.png", "text": "x"}, line, {"file_name": "3.png", "text": "x"}])
    first, bad, last = read_all(source, 2)
    assert (first.id, last.id) == ("1.png", "3.png")
    assert isinstance(bad, Reject)
    assert (bad.id, bad.reason) == ("metadata.jsonl:2", reason)


@pytest.mark.parametrize(
    ("value", "reason"),
    [(3, "caption is not text"), (["x", None], "caption is not text"), ({}, "caption is not text"),
     ("\ud800", "text is not UTF-8"), ([["x"]], "caption is not text")],
)  # fmt: skip
def test_captions_that_are_no_text_are_rejected(tmp_path, source, value, reason):
    write_lines(tmp_path, [{"file_name": "a.png", "text": value}])
    (record,) = read_all(source, 1)
    assert isinstance(record, Reject)
    assert (record.id, record.reason) == ("a.png", reason)


def test_a_name_counts_once_also_across_units(tmp_path, source):
    names = ["a.png", "b.png", "./a.png", "x/../b.png", "c.png"]
    write_lines(tmp_path, [{"file_name": name, "text": "x"} for name in names])
    records = read_all(source, 2)
    assert [record.id for record in records if isinstance(record, Item)] == ["a.png", "b.png", "c.png"]
    assert [record for record in records if isinstance(record, Reject)] == [
        Reject("a.png", "duplicate id", "metadata.jsonl:3"),
        Reject("b.png", "duplicate id", "metadata.jsonl:4"),
    ]


def test_nothing_outside_of_the_folder_is_read(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.png").write_bytes(png())
    (inside / "link.png").symlink_to(outside / "a.png")
    (inside / "folder").symlink_to(outside)
    (inside / "within.png").symlink_to(inside / "a.png")
    names = ["../out/a.png", "x/../../out/a.png", str(outside / "a.png"), "link.png", "folder/a.png", "a.png\0.png",
             "gs://bucket/a.png"]  # fmt: skip
    for name in names:
        with pytest.raises(RejectedError) as caught:
            read_inside(str(inside), name)
        assert caught.value.reason == "unsafe path", name
    assert read_inside(str(inside), "within.png") == png()


def test_what_is_no_file_is_rejected(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    (tmp_path / "circle.png").symlink_to("circle.png")
    for name in ("none.png", "folder.png", "pipe.png", "circle.png", "x" * 5000, "."):
        with pytest.raises(RejectedError) as caught:
            read_inside(str(tmp_path), name)
        assert caught.value.reason == "missing file", name


def test_a_file_that_cannot_be_read_now_stops_the_run_and_is_not_rejected(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))  # no more files can be opened
    try:
        with pytest.raises(PreparationError, match=r"a\.png cannot be read: .*Too many open files.* same command"):
            read_inside(str(tmp_path), "a.png")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert read_inside(str(tmp_path), "a.png") == png()


def test_a_source_can_be_sent_to_workers(tmp_path, source):
    write_lines(tmp_path, [{"file_name": "a.png", "text": "x"}])
    (item,) = read_all(pickle.loads(pickle.dumps(source)), 1)
    assert item.id == "a.png"


CSV = b"""file_name,width,text\r
1.png,3,a red apple\r
\r
b/2.png,4,"a pear, ""green"",
on two lines"\r
3.png,5,\r
4.png,6\r
,7,no name\r
./1.png,8,again\r
6.png,9,gr\xfcn\r
7.png,10,"last"
"""


@pytest.fixture
def table(tmp_path):
    return FolderSource(str(tmp_path), "metadata.csv")


@pytest.mark.parametrize("unit_size", [1, 2, 3, 100])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte order mark"])
def test_rows_of_a_csv_are_read_whatever_the_units(tmp_path, table, unit_size, mark):
    (tmp_path / "metadata.csv").write_bytes(mark + CSV)
    records = read_all(table, unit_size)
    assert [(record.id, record.captions) for record in records if isinstance(record, Item)] == [
        ("1.png", ("a red apple",)),
        ("b/2.png", ('a pear, "green",\non two lines',)),
        ("3.png", ()),
        ("7.png", ("last",)),
    ]
    rejects = [record for record in records if isinstance(record, Reject)]
    assert [(reject.id, reject.reason) for reject in rejects] == [
        ("metadata.csv:6", "broken CSV"),
        ("metadata.csv:7", "broken CSV"),
        ("1.png", "duplicate id"),
        ("metadata.csv:9", "text is not UTF-8"),
    ]
    assert sum(unit.count for unit in table.plan(unit_size).units) == len(records)


def test_a_quotation_mark_that_is_never_closed_costs_little(tmp_path, table):
    rows = b"".join(b"%d.png,x\n" % i for i in range(MAX_ROW // 4))
    (tmp_path / "metadata.csv").write_bytes(b'file_name,text\n0.png,"x\n' + rows)
    records = read_all(table, 10_000)
    assert [record.reason for record in records if isinstance(record, Reject)] == ["broken CSV"]
    assert len(records) > MAX_ROW // 10


@pytest.mark.parametrize("head", [b"name,text", b"file_name;text", b"", b'"', b"\xff,file_name"])
def test_a_csv_that_does_not_name_its_columns_is_refused(tmp_path, table, head):
    (tmp_path / "metadata.csv").write_bytes(head + b"\n1.png,x\n")
    with pytest.raises(ConfigError, match=r"names no column 'file_name', but .* Name the columns, e\.g\. file_name"):
        table.plan(1)
