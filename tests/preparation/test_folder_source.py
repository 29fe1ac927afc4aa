import json
import os
import pickle
import resource

import pytest

from nami_jax.preparation.errors import PreparationError, Reject, RejectedError
from nami_jax.preparation.folder_source import FolderSource, read_inside
from nami_jax.preparation.sources import Item, split_by_hash
from tests.preparation.conftest import png, write_lines


def read_all(source: FolderSource, unit_size: int) -> list[Item | Reject]:
    return [record for unit in source.plan(unit_size).units for record in source.read(unit)]


@pytest.fixture
def source(tmp_path):
    return FolderSource(str(tmp_path), eval_share=0.5)


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


def test_the_share_to_hold_out_is_drawn_by_id_alone():
    ids = [f"{i}.png" for i in range(4000)]
    held_out = [i for i in ids if split_by_hash(i, 0.25) == "held_out"]
    assert 900 < len(held_out) < 1100  # 1000 +- 27, one standard deviation
    assert {split_by_hash(i, 0.0) for i in ids} == {"train"}
    # A larger share holds out the same ones and more: no held-out image ever becomes a training image.
    assert all(split_by_hash(i, 0.5) == "held_out" for i in held_out)
