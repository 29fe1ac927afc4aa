import pytest

from nami_jax.config import ConfigError
from nami_jax.files.output_folder import make_folder, output_folder, require_readable


def fail_after(work):
    work()
    raise KeyError


def test_a_folder_in_which_nothing_was_written_is_removed_with_its_new_parents(tmp_path):
    with pytest.raises(KeyError), output_folder(tmp_path / "a" / "b", field="out"):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_a_folder_stays_with_what_was_written_before_the_work_failed(tmp_path):
    with pytest.raises(KeyError), output_folder(tmp_path / "a" / "b", field="out"):
        fail_after(lambda: (tmp_path / "a" / "b" / "kept").mkdir())
    assert (tmp_path / "a" / "b" / "kept").exists()


def test_an_empty_folder_that_was_there_stays(tmp_path):
    with output_folder(tmp_path, field="out"):
        pass
    assert tmp_path.is_dir()


def test_a_file_in_the_way_is_told_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("file", "file/below"):
        with pytest.raises(ConfigError, match=r"^out = .*: a file is in the way\. Set another folder, or move that"):
            make_folder(tmp_path / folder, field="out")


def test_a_folder_that_is_not_there_may_be_looked_for_but_a_file_is_none(tmp_path):
    require_readable(tmp_path / "absent", field="checkpoint", remedy="Pass a run")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^checkpoint = .*: cannot be opened as a folder: Not a directory\. Pass a"):
        require_readable(tmp_path / "file", field="checkpoint", remedy="Pass a run")
