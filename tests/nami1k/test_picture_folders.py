"""Folders of pictures: what is missing and what is odd, and what the arena refuses at the start, without decoding."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from nami_jax.config import ConfigError
from nami_jax.nami1k.picture_folders import check_folder, read_folders
from nami_jax.nami1k.prompt_set import Prompt, PromptSet
from tests.support.arena import write_pictures, write_prompts

IDS = ["p000", "p001", "p002"]
CHECKED = ("a1", "a2", "a3", "a4")
PROMPTS = PromptSet(
    tuple(Prompt(id=i, kind="short", topic="t", style="s", en=f"prompt {i}") for i in CHECKED), "0" * 64
)


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


def test_a_picture_is_served_without_its_notes(folders):
    assert b"model A" in (folders[0] / "p000.png").read_bytes()
    assert b"model A" not in read(folders)[0].read("p000")


def test_a_picture_that_has_changed_is_not_served(folders):
    folder = read(folders)[0]
    with (folders[0] / "p000.png").open("ab") as file:
        file.write(b"more")
    with pytest.raises(OSError, match="has changed"):
        folder.read("p000")


def picture(seed, size=(16, 16)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))


@pytest.fixture
def checked(tmp_path):
    for seed, name in enumerate(CHECKED):
        picture(seed).save(tmp_path / f"{name}.png")
    return tmp_path


def test_a_whole_folder_is_good(checked):
    found = check_folder(checked, PROMPTS)
    assert found.good
    assert found.to_dict() == {"missing": [], "odd": {}, "extra": [], "sizes": {"16x16": 4}}


def test_missing_pictures_and_other_names_are_told(checked):
    (checked / "a2.png").unlink()
    (checked / "..a2.png").write_text("")
    (checked / "a1.jpg").write_text("")
    (checked / "a3\nb.png").write_text("")
    found = check_folder(checked, PROMPTS)
    assert found.missing == ["a2"]
    assert found.extra == ["..a2.png", "a1.jpg", "a3\nb.png"]
    assert not found.good


def test_odd_pictures_are_told_with_what_is_wrong(checked):
    whole = (checked / "a1.png").read_bytes()
    (checked / "a1.png").write_bytes(whole[: len(whole) // 2])
    picture(9, (8, 16)).save(checked / "a2.png")
    picture(3).save(checked / "a3.png")
    found = check_folder(checked, PROMPTS)
    assert "unreadable image" in found.odd["a1.png"]
    assert found.odd["a2.png"] == "has 8x16 pixels where most have 16x16"
    assert found.odd["a4.png"] == "is the same picture as a3.png"
    assert list(found.odd) == ["a1.png", "a4.png", "a2.png"]
    Image.new("RGB", (16, 16), "navy").save(checked / "a4.png")
    assert check_folder(checked, PROMPTS).odd["a4.png"] == "is all of one colour"


def test_folders_pipes_and_links_are_odd(checked, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    picture(7).save(outside)
    for name in ("a1.png", "a2.png", "a3.png"):
        (checked / name).unlink()
    (checked / "a1.png").mkdir()
    os.mkfifo(checked / "a2.png")
    (checked / "a3.png").symlink_to(outside)
    found = check_folder(checked, PROMPTS)
    assert {name: why.split(": ")[1] for name, why in found.odd.items()} == {
        "a1.png": "Is a directory",
        "a2.png": "is not a file",
        "a3.png": "is a link, which may lead out of the folder",
    }


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no folder"):
        check_folder(tmp_path / "none", PROMPTS)
