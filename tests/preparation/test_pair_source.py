import os
import pickle

import pytest

from nami_jax.preparation.errors import PreparationError, Reject, RejectedError
from nami_jax.preparation.pair_source import PairSource
from nami_jax.preparation.sources import Item
from tests.preparation.conftest import png


@pytest.fixture
def folder(tmp_path):
    for name, content in {
        "b.png": png(),
        "b.txt": b" a red card\n",
        "a/b.JPG": png(),
        "a/b.txt": "gr\u00fcn".encode(),
        "a/silent.webp": png(),
        "a/latin.png": png(),
        "a/latin.txt": b"gr\xfcn",
        "notes.txt": b"no image",
        "a/clip.mp4": b"",
        ".hidden/c.png": png(),
        "a/.d.png": png(),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def read_all(source: PairSource, unit_size: int) -> list[Item | Reject]:
    return [record for unit in source.plan(unit_size).units for record in source.read(unit)]


@pytest.mark.parametrize("unit_size", [1, 3, 100])
def test_images_at_any_depth_have_the_texts_beside_them(folder, unit_size):
    records = read_all(pickle.loads(pickle.dumps(PairSource(str(folder)))), unit_size)
    assert [record.id for record in records] == ["a/b.JPG", "a/latin.png", "a/silent.webp", "b.png"]
    items = {record.id: record for record in records if isinstance(record, Item)}
    assert {name: item.captions for name, item in items.items()} == {
        "a/b.JPG": ("gr\u00fcn",), "a/silent.webp": (), "b.png": ("a red card",),
    }  # fmt: skip
    assert items["b.png"].load() == png()
    assert [record.reason for record in records if isinstance(record, Reject)] == ["text is not UTF-8"]


def test_the_digest_changes_with_names_and_texts(folder):
    digests = {PairSource(str(folder)).plan(2).digest}
    (folder / "b.txt").write_text("a blue card")
    digests.add(PairSource(str(folder)).plan(2).digest)
    (folder / "c.png").write_bytes(png())
    digests.add(PairSource(str(folder)).plan(2).digest)
    assert len(digests) == 3
    assert PairSource(str(folder)).plan(2).digest == PairSource(str(folder)).plan(3).digest


def test_links_that_lead_outside_or_nowhere_are_rejected(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "e.png").write_bytes(png())
    (folder / "e.png").symlink_to(outside / "e.png")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "text.png").write_bytes(png())
    (folder / "text.txt").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe.png")
    found = {}
    for record in read_all(PairSource(str(folder)), 10):
        try:
            found[record.id] = record.reason if isinstance(record, Reject) else record.load() and ""
        except RejectedError as error:
            found[record.id] = error.args[0]
    assert {name: found[name] for name in ("e.png", "circle.png", "text.png", "pipe.png", "b.png")} == {
        "e.png": "unsafe path", "circle.png": "missing file", "text.png": "unsafe path", "pipe.png": "missing file",
        "b.png": "",
    }  # fmt: skip


def test_a_name_that_is_not_utf_8_is_read_and_spelt_out(folder):
    (folder / os.fsdecode(b"gr\xfcn.png")).write_bytes(png())
    records = {record.id: record for record in read_all(PairSource(str(folder)), 10)}
    record = records["gr\\udcfcn.png"]
    assert isinstance(record, Item)
    assert record.load() == png()


def test_a_folder_that_cannot_be_read_stops_the_run(tmp_path):
    with pytest.raises(PreparationError, match="cannot be read"):
        PairSource(str(tmp_path / "none")).plan(1)
