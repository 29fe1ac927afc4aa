"""A folder of pictures is looked at without trust: what is missing and what is odd."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from nami_jax.config import ConfigError
from nami_jax.data.images import BrokenImageError
from nami_jax.nami1k import image_folder
from nami_jax.nami1k.image_folder import check_folder, open_picture
from nami_jax.nami1k.prompt_set import Prompt, PromptSet

IDS = ("a1", "a2", "a3", "a4")
PROMPTS = PromptSet(tuple(Prompt(id=i, kind="short", topic="t", style="s", en=f"prompt {i}") for i in IDS), "0" * 64)


def picture(seed, size=(16, 16)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(IDS):
        picture(seed).save(tmp_path / f"{name}.png")
    return tmp_path


def huge_png(width, height):
    """A header that promises a picture and holds hardly any data."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_whole_folder_is_good(folder):
    found = check_folder(folder, PROMPTS)
    assert found.good
    assert found.to_dict() == {"missing": [], "odd": {}, "extra": [], "sizes": {"16x16": 4}}


def test_missing_pictures_and_other_names_are_told(folder):
    (folder / "a2.png").unlink()
    (folder / "..a2.png").write_text("")
    (folder / "a1.jpg").write_text("")
    (folder / "a3\nb.png").write_text("")
    found = check_folder(folder, PROMPTS)
    assert found.missing == ["a2"]
    assert found.extra == ["..a2.png", "a1.jpg", "a3\nb.png"]
    assert not found.good


def test_odd_pictures_are_told_with_what_is_wrong(folder):
    whole = (folder / "a1.png").read_bytes()
    (folder / "a1.png").write_bytes(whole[: len(whole) // 2])
    picture(9, (8, 16)).save(folder / "a2.png")
    picture(3).save(folder / "a3.png")
    found = check_folder(folder, PROMPTS)
    assert "unreadable image" in found.odd["a1.png"]
    assert found.odd["a2.png"] == "has 8x16 pixels where most have 16x16"
    assert found.odd["a4.png"] == "is the same picture as a3.png"
    assert list(found.odd) == ["a1.png", "a4.png", "a2.png"]
    Image.new("RGB", (16, 16), "navy").save(folder / "a4.png")
    assert check_folder(folder, PROMPTS).odd["a4.png"] == "is all of one colour"


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


def test_a_file_of_two_gigabytes_is_not_read(tmp_path, monkeypatch):
    with (tmp_path / "a1.png").open("wb") as file:
        os.truncate(file.fileno(), 2 * 2**30)  # sparse: takes no room
    monkeypatch.setattr(image_folder, "open_image", None)
    with pytest.raises(BrokenImageError, match="2147483648 bytes, at most 268435456 are read"):
        open_picture(tmp_path / "a1.png")


def test_folders_pipes_and_links_that_lead_out_are_odd(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    picture(7).save(outside)
    for name in ("a1.png", "a2.png", "a3.png"):
        (folder / name).unlink()
    (folder / "a1.png").mkdir()
    os.mkfifo(folder / "a2.png")
    (folder / "a3.png").symlink_to(outside)
    (folder / "a4.png").rename(folder / "kept")
    (folder / "a4.png").symlink_to("kept")
    found = check_folder(folder, PROMPTS)
    assert {name: why.split(": ")[1] for name, why in found.odd.items()} == {
        "a1.png": "is no file",
        "a2.png": "is no file",
        "a3.png": "is a link that leads out of the folder",
    }


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no folder"):
        check_folder(tmp_path / "none", PROMPTS)
