import os

import pytest

from nami_jax.config import ConfigError
from nami_jax.files import json_files
from nami_jax.files.json_files import parse_json, read_json


def test_an_object_is_read_whatever_the_mark_at_its_start(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1, "\xc3\xa9"]}')
    assert read_json(tmp_path / "a.json", "Fetch it again") == {"a": [1, "é"]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is damaged: it is not valid JSON in UTF-8: EOF"),
        (b'{"a": "\xff"}', "is damaged: it is not valid JSON in UTF-8"),
        (b"[" * 100_000, "is damaged: .*recursion limit"),
        (b'{"a":' * 100_000, "is damaged: .*recursion limit"),
        (b'{"a": NaN}', "is damaged: it is not valid JSON"),
        (b'{"a": "\\ud800"}', "is damaged: it is not valid JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "is damaged: .*number out of range"),
        (b"[]", "is damaged: it holds a list instead of an object"),
        (b"null", "is damaged: it holds null instead of an object"),
        (b"true", "it holds true or false instead"),
        (b"3.5", "it holds a number instead"),
        (b'"a"', "it holds a text instead"),
    ],
)
def test_what_is_no_object_is_refused_in_one_line_with_the_remedy(tmp_path, content, problem):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"a\.json {problem}.*\. Fetch it again\.$|a\.json.*{problem}"):
        read_json(tmp_path / "a.json", "Fetch it again")


@pytest.mark.parametrize("name", ["absent", "folder", "pipe", "x" * 300, "nul\0", "absent/below"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # a read of it would never end
    with pytest.raises(ConfigError, match=r"(is not a file|cannot be read: .*)\. Fetch it again\.$"):
        read_json(tmp_path / name, "Fetch it again")


def test_a_file_that_would_fill_the_memory_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("{}  ")
    monkeypatch.setattr(json_files, "MOST_BYTES", 3)
    with pytest.raises(ConfigError, match="are the most"):
        read_json(tmp_path / "a.json", "Fetch it again")


def test_a_text_is_parsed_as_a_file_is():
    assert parse_json('{"a": 1}', "x", "Y") == {"a": 1}
    with pytest.raises(ConfigError, match=r"^x is damaged: it holds a list instead of an object\. Y\.$"):
        parse_json("[]", "x", "Y")
