"""Another process answers texts with rows of numbers."""

import numpy as np
import pytest

from nami_jax.config import ConfigError
from nami_jax.files.row_pipe import RowProcess
from tests.support.paths import ROOT

LENGTHS = """
import numpy as np
from nami_jax.files.row_pipe import answer_rows

def encode(texts):
    print("this must not stand among the numbers")
    if "stop" in texts:
        raise SystemExit("error: told to stop")
    return np.array([[len(text), ord(text[0])] for text in texts], np.float32).reshape(-1, 2)

def main():
    answer_rows(encode, 2)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "lengths.py").write_text(LENGTHS)
    (tmp_path / "absent.py").write_text("def main():\n    raise SystemExit('error: nothing is installed')\n")
    return tmp_path


def test_rows_come_in_the_order_of_the_texts_and_hold_any_letter(folder):
    with RowProcess("lengths") as rows:
        assert rows.width == 2
        np.testing.assert_array_equal(rows(["abc", "鹤\n“x”"]), [[3, 97], [5, 40548]])
        assert rows([]).shape == (0, 2)
        assert rows(["y" * 10**6] * 3).tolist() == [[10**6, 121]] * 3


@pytest.mark.parametrize("module", ["absent", "no_such_module"])
def test_a_process_that_cannot_begin_is_an_error_that_names_it(folder, module, capfd):
    with pytest.raises(ConfigError, match=f"{module} ended with status 1"):
        RowProcess(module)
    assert "nothing is installed" in (said := capfd.readouterr().err) or "no_such_module" in said


def test_a_process_that_ends_on_the_way_is_an_error(folder):
    with RowProcess("lengths") as rows, pytest.raises(ConfigError, match="lengths ended with status 1"):
        rows(["stop"])
