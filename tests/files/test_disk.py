import errno
import fcntl
import os
import subprocess
import sys
from typing import IO, Any

import pytest

from nami_jax.files.disk import is_full, lock, lock_if_possible, move_into_place, written_whole

HOLDER = """
import sys, time
from pathlib import Path
from nami_jax.files.disk import lock
file = Path(sys.argv[1]).open("w")
lock(file)
print("locked", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_recognised_by_number_and_by_text(number):
    assert is_full(OSError(number, os.strerror(number)))
    assert is_full(ValueError(f"INTERNAL: Error writing 0.tmp: {os.strerror(number)} [OS error {number}]"))


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), ValueError("not a number"), OSError()])
def test_other_errors_are_no_full_disk(error):
    assert not is_full(error)


@pytest.mark.parametrize("take", [lock, lock_if_possible])
def test_a_second_lock_is_refused_and_free_once_the_file_is_closed(tmp_path, take):
    path = tmp_path / "lock"
    with path.open("w") as first:
        lock(first)
        with path.open("w") as second, pytest.raises(BlockingIOError):
            take(second)
    with path.open("w") as third:
        take(third)


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with path.open("w") as file, pytest.raises(BlockingIOError):
            lock(file)
        holder.kill()
    with path.open("w") as file:
        lock(file)


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_told_from_a_lock_that_is_held(tmp_path, monkeypatch, number):
    def none(file: IO[Any], operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    with (tmp_path / "lock").open("w") as file:
        assert not lock_if_possible(file)
        with pytest.raises(OSError, match=os.strerror(number)):
            lock(file)


def test_a_file_appears_when_it_is_whole_and_replaces_the_older_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with written_whole(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
        assert unfinished.parent == tmp_path
        assert unfinished.suffix == ".tmp"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_content_alone(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with written_whole(path) as unfinished:
            unfinished.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with written_whole(path) as first, written_whole(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # which was finished last


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: calls.append("fsync") or fsync(number))
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append("replace") or replace(*paths))
    (tmp_path / "finished").write_text("content")
    move_into_place(tmp_path / "finished", tmp_path / "file")
    assert calls == ["fsync", "replace"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
