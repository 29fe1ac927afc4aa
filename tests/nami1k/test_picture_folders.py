"""Folders of pictures: what is refused at the start, without decoding, and what a rater gets of a picture."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from nami_jax.config import ConfigError
from nami_jax.nami1k.picture_folders import noised, read_folders, without_metadata
from tests.support.arena import write_pictures, write_prompts

IDS = ["p000", "p001", "p002"]


@pytest.fixture
def folders(tmp_path):
    prompts = write_prompts(tmp_path / "prompts.jsonl", 3)
    return [write_pictures(tmp_path / name, prompts) for name in "AB"]


def read(folders):
    return read_folders([str(folder) for folder in folders], IDS)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_names_and_digests(folders):
    first, second = read(folders)
    assert (first.name, second.name) == ("A", "B")
    assert first.digest != second.digest
    moved = folders[0].rename(folders[0].with_name("moved"))
    named, _ = read_folders([f"A={moved}", str(folders[1])], IDS)
    assert (named.name, named.digest) == ("A", first.digest)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["A"], "two models at least"),
        (["A", "A"], "two models have one name"),
        (["A", "nowhere"], "cannot be opened"),
        (["=A", "B"], "1 to 64 printable letters"),
        (["x\ny=A", "B"], "1 to 64 printable letters"),
    ],
)
def test_folders_that_are_refused(folders, tmp_path, monkeypatch, given, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        read_folders(given, IDS)


def test_missing_pictures_are_counted_and_named(folders):
    for name in ("p000.png", "p002.png"):
        (folders[1] / name).unlink()
    with pytest.raises(ConfigError, match=r"lacks 2 of 3 pictures: p000\.png, p002\.png\. Draw them"):
        read(folders)


def test_a_huge_file_is_refused_unread(folders):
    with (folders[0] / "p001.png").open("ab") as file:
        file.truncate(2 * 2**30)  # takes no space on the disk
    with pytest.raises(ConfigError, match=r"p001\.png.*has 2048 MiB, where a picture has 256 at most"):
        read(folders)


def test_huge_sides_are_refused_undecoded(folders):
    (folders[0] / "p001.png").write_bytes(png_header(1_000_000, 100))
    with pytest.raises(ConfigError, match=r"has 1000000 x 100 pixels, where a picture has 67108864 at most"):
        read(folders)
    (folders[0] / "p001.png").write_bytes(png_header(2**30, 2**30))
    with pytest.raises(ConfigError, match=r"p001\.png"):
        read(folders)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\xff" * 40])
def test_what_is_no_png_is_refused(folders, content):
    (folders[0] / "p001.png").write_bytes(content)
    with pytest.raises(ConfigError, match=r"p001\.png"):
        read(folders)


def test_links_and_pipes_are_not_followed(folders, tmp_path):
    path = folders[0] / "p001.png"
    path.unlink()
    path.symlink_to(folders[1] / "p001.png")
    with pytest.raises(ConfigError, match=r"p001\.png': is a link"):
        read(folders)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="is not a file"):
        read(folders)


def test_a_picture_keeps_its_pixels_and_loses_its_notes(folders):
    whole = (folders[0] / "p000.png").read_bytes()
    assert b"model A" in whole
    bare = read(folders)[0].read("p000")
    assert b"model A" not in bare
    with Image.open(io.BytesIO(whole)) as before, Image.open(io.BytesIO(bare)) as after:
        assert np.array_equal(np.asarray(before), np.asarray(after))
        assert after.info == {}


@pytest.mark.parametrize("cut", [9, 20, 33, 60])
def test_a_picture_that_was_cut_raises_an_os_error(folders, cut):
    whole = (folders[0] / "p000.png").read_bytes()
    with pytest.raises(OSError, match="PNG"):
        without_metadata(whole[:cut])


def test_a_picture_that_has_changed_is_not_served(folders):
    folder = read(folders)[0]
    with (folders[0] / "p000.png").open("ab") as file:
        file.write(b"more")
    with pytest.raises(OSError, match="has changed"):
        folder.read("p000")


def test_noise_is_plain_and_the_same_each_time(folders):
    whole = (folders[0] / "p000.png").read_bytes()
    spoiled = noised(whole, 7)
    assert spoiled == noised(whole, 7) != noised(whole, 8)
    with Image.open(io.BytesIO(whole)) as before, Image.open(io.BytesIO(spoiled)) as after:
        assert before.size == after.size
        assert np.asarray(before).std((0, 1)).max() == 0  # of one colour
        assert np.asarray(after).std((0, 1)).min() > 40
