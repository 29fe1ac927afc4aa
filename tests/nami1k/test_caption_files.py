"""Captions are read from text, JSON Lines, Parquet and folders, a piece at a time."""

import itertools
import json

import pyarrow
import pyarrow.parquet
import pytest

from nami_jax.config import ConfigError
from nami_jax.nami1k import caption_files
from nami_jax.nami1k.caption_files import Caption, in_chunks, read_captions


def texts(path, **settings):
    return [(caption.text, caption.line) for caption in read_captions(path, **settings)]


def test_a_text_file_has_a_caption_a_line(tmp_path):
    path = tmp_path / "c.txt"
    path.write_bytes("a red door\r\n\n  \n一扇红门".encode("utf-8-sig"))
    assert texts(path) == [("a red door", 1), ("一扇红门", 4)]
    path.write_bytes(b"latin \xe9\n")
    assert texts(path) == [("latin �", 1)]


def test_json_lines_have_texts_or_objects_with_known_fields(tmp_path):
    path = tmp_path / "c.jsonl"
    lines = ["plain", {"caption": "one", "url": "x"}, {"text": ["two", "three", None]}, {"en": "four", "zh": "四"}]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert texts(path) == [("plain", 1), ("one", 2), ("two", 3), ("three", 3), ("four", 4), ("四", 4)]
    assert texts(tmp_path / "c.jsonl", keys=("url", "text", "zh"))[1] == ("x", 2)


def test_parquet_is_read_in_its_columns_row_by_row(tmp_path, monkeypatch):
    monkeypatch.setattr(caption_files, "ROWS", 2)
    columns = {"text": ["one", None, "three"], "other": ["x", "y", "z"], "prompt": [["p", "q"], [], None]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "c.parquet")
    assert texts(tmp_path / "c.parquet") == [("one", 1), ("p", 1), ("q", 1), ("three", 3)]
    with pytest.raises(ConfigError, match="has none of the columns title, but text, other, prompt"):
        texts(tmp_path / "c.parquet", keys=("title",))


def test_a_folder_is_read_with_the_folders_in_it(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("first\n")
    (tmp_path / "a.png").write_bytes(b"no text")
    (tmp_path / "b" / "c" / "d.jsonl").write_text('"second"\n')
    assert list(read_captions(tmp_path)) == [
        Caption("first", str(tmp_path / "a.txt"), 1),
        Caption("second", str(tmp_path / "b" / "c" / "d.jsonl"), 1),
    ]


def test_chunks_are_read_as_they_are_asked_for():
    endless = (Caption(str(number), "", number) for number in itertools.count())
    chunks = in_chunks(endless, 3)
    assert [[caption.line for caption in next(chunks)] for _ in range(2)] == [[0, 1, 2], [3, 4, 5]]
    assert [len(some) for some in in_chunks([Caption("", "", 0)] * 4, 3)] == [3, 1]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("c.jsonl", b'{"title": "x"}\n', r"line 1.*has none of caption, text"),
        ("c.jsonl", b"{broken\n", "line 1 is damaged"),
        ("c.jsonl", b"[" * 100_000, "line 1 is damaged"),
        ("c.jsonl", b"5\n", "has none of"),
        ("c.parquet", b"PAR1 but not really", "cannot be read"),
        ("c.txt", b"x" * 100_001, "line 1 = .*has more than 100000 letters"),
        ("c.pdf", b"", "holds nothing to read"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        texts(tmp_path / name)


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not there"):
        texts(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match="holds nothing to read"):
        texts(tmp_path)
