"""Files of pictures that may be anything are refused undecoded, and a rater gets PNGs without notes."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nami_jax.data.images import BrokenImageError
from nami_jax.nami1k import picture_files
from nami_jax.nami1k.picture_files import noised, open_picture, read_png, without_metadata


def huge_png(width, height):
    """A header that promises a picture and holds hardly any data."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def whole():
    note, buffer = PngInfo(), io.BytesIO()
    note.add_text("Software", "model A")
    Image.new("RGB", (16, 16), "teal").save(buffer, "PNG", pnginfo=note)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "unreadable image"),
        (b"<svg/>", "is none of BMP, GIF, JPEG, PNG"),
        (huge_png(12_000, 9_000), "decompression bomb: .*12000x9000|decompression bomb"),
        (huge_png(2**20, 2**20), "decompression bomb"),
    ],
)
def test_files_that_are_no_usable_picture_are_refused_undecoded(tmp_path, content, says):
    (tmp_path / "a1.png").write_bytes(content)
    with pytest.raises(BrokenImageError, match=says):
        open_picture(tmp_path / "a1.png")


@pytest.mark.parametrize("read", [open_picture, read_png])
def test_a_file_of_two_gigabytes_is_not_read(tmp_path, monkeypatch, read):
    with (tmp_path / "a1.png").open("wb") as file:
        os.truncate(file.fileno(), 2 * 2**30)  # sparse: takes no room
    monkeypatch.setattr(picture_files, "open_image", None)
    with pytest.raises(BrokenImageError, match="has 2048 MiB, where a picture has 256 at most"):
        read(tmp_path / "a1.png")


def test_a_link_is_followed_where_it_may_be(tmp_path, whole):
    (tmp_path / "a1.png").write_bytes(whole)
    (tmp_path / "a2.png").symlink_to("a1.png")
    assert open_picture(tmp_path / "a2.png").size == (16, 16)
    with pytest.raises(BrokenImageError, match="is a link"):
        read_png(tmp_path / "a2.png")


@pytest.mark.parametrize("cut", [9, 20, 33, 60])
def test_a_picture_that_was_cut_raises_an_os_error(whole, cut):
    with pytest.raises(OSError, match="PNG"):
        without_metadata(whole[:cut])


def test_notes_are_left_out_and_pixels_kept(whole):
    assert b"model A" in whole
    bare = without_metadata(whole)
    assert b"model A" not in bare
    with Image.open(io.BytesIO(whole)) as before, Image.open(io.BytesIO(bare)) as after:
        assert np.array_equal(np.asarray(before), np.asarray(after))
        assert after.info == {}


def test_noise_is_plain_and_the_same_each_time(whole):
    spoiled = noised(whole, 7)
    assert spoiled == noised(whole, 7) != noised(whole, 8)
    with Image.open(io.BytesIO(whole)) as before, Image.open(io.BytesIO(spoiled)) as after:
        assert before.size == after.size
        assert np.asarray(before).std((0, 1)).max() == 0  # of one colour
        assert np.asarray(after).std((0, 1)).min() > 40
