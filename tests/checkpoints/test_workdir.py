import os
import socket

import pytest

from nami_jax.checkpoints.workdir import finished_steps, held, move_aside
from nami_jax.config import ConfigError


@pytest.fixture
def closed(tmp_path):
    """A folder that may be read and not written."""
    tmp_path.chmod(0o555)
    if os.geteuid() == 0:  # whom no mode stops
        os.seteuid(65534)
        yield tmp_path
        os.seteuid(0)
    else:
        yield tmp_path


def test_missing_parents_are_made(tmp_path):
    with held(tmp_path / "runs" / "today" / "mine"):
        assert (tmp_path / "runs" / "today" / "mine").is_dir()


def test_a_folder_is_held_by_one_and_free_afterwards(tmp_path):
    with held(tmp_path):
        with pytest.raises(ConfigError) as refused, held(tmp_path):
            pass
        whom = f"process {os.getpid()} on {socket.gethostname()} is training in it. Wait for it to finish, stop it,"
        assert f"workdir = {str(tmp_path)!r}: {whom}" in str(refused.value)
    with held(tmp_path):
        pass


def test_a_folder_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=r"workdir = .*file.*: a file is in the way\. Set another"), held(folder):
            pass


def test_a_folder_without_permission_is_refused(closed):
    rule = r"workdir = .*: cannot be written: Permission denied\. Set a folder"
    with pytest.raises(ConfigError, match=rule), held(closed / "run"):
        pass


def test_what_an_unfinished_save_left_is_no_step(tmp_path):
    assert finished_steps(tmp_path) == []
    for name in ("100", "20", "100.orbax-checkpoint-tmp", "200.orbax-checkpoint-tmp-17", "notes"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert finished_steps(tmp_path) == [20, 100]


def test_what_is_moved_aside_replaces_nothing(tmp_path):
    for content in ("first", "second", "third"):
        (tmp_path / "7").mkdir()
        (tmp_path / "7" / "file").write_text(content)
        move_aside([tmp_path / "7"], tmp_path / "damaged")
    kept = {path.parent.name: path.read_text() for path in (tmp_path / "damaged").glob("*/file")}
    assert kept == {"7": "first", "7-2": "second", "7-3": "third"}


def test_what_cannot_be_moved_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"workdir = .* Move .*/7 out of the way"):
        move_aside([tmp_path / "7"], tmp_path / "damaged")
