"""Runs the benchmark against PyTorch at its smallest size: its comparison of outputs and gradients, and its figures."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import vs_pytorch
from benchmarks.vs_pytorch import Cell, Differs

torch: Any = pytest.importorskip("torch")
pytest.importorskip("diffusers")

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("passed", vs_pytorch.PASSES)
def test_outputs_and_gradients_agree_before_they_are_timed(passed):
    row = vs_pytorch.measure(torch, Cell(64, 4, passed, "float32"), rounds=2, compile_too=False)
    assert 0 < row["error"] <= 1e-5  # float32 on both sides, as in test_nami_live
    assert row["to eager"] == pytest.approx(row["ours ms"] / row["eager ms"], rel=0.5)


@pytest.mark.parametrize("passed", vs_pytorch.PASSES)
def test_networks_that_differ_are_refused(passed, monkeypatch):
    monkeypatch.setitem(vs_pytorch.TOLERANCE["float32"], passed, 1e-9)
    with pytest.raises(Differs, match="above 1e-09"):
        vs_pytorch.measure(torch, Cell(64, 4, passed, "float32"), rounds=2, compile_too=False)


def test_without_a_compiler_the_row_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (str(tmp_path / "no_compiler"),))
    row = vs_pytorch.measure(torch, Cell(64, 4, "forward", "float32"), rounds=2, compile_too=True)
    assert "compiler" in row["not compiled"]
    assert "compiled ms" not in row


def test_the_command_ends_with_the_ratio_and_goes_on_where_it_stopped(tmp_path):
    kept = tmp_path / "rows.json"
    command = [sys.executable, "-m", "benchmarks.vs_pytorch", "--widths=64", "--tokens=4", "--no_compile", "--rounds=2"]
    command.append(f"--json={kept}")

    def last_line() -> str:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]

    assert re.fullmatch(r"ratio \d+\.\d{3}", last_line())
    found = json.loads(kept.read_text())
    found["rows"][0]["to eager"] = 0.123
    kept.write_text(json.dumps(found))
    assert last_line() == "ratio 0.123"
