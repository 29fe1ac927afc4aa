"""Runs the benchmark against PyTorch at its smallest size: its comparison of outputs and gradients, and its figures."""

import json
import os
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
    assert min(row["ours ms"], row["eager ms"], row["to eager"]) > 0


@pytest.mark.parametrize("passed", vs_pytorch.PASSES)
def test_networks_that_differ_are_refused(passed, monkeypatch):
    monkeypatch.setitem(vs_pytorch.TOLERANCE["float32"], passed, 1e-9)
    with pytest.raises(Differs, match="above 1e-09"):
        vs_pytorch.measure(torch, Cell(64, 4, passed, "float32"), rounds=2, compile_too=False)


def test_the_command_goes_on_where_it_stopped_and_ends_with_the_ratio_also_without_a_compiler(tmp_path):
    kept = tmp_path / "rows.json"
    sizes = ["--widths=64", "--tokens=4", "--passes=forward", "--rounds=2"]
    command = [sys.executable, "-m", "benchmarks.vs_pytorch", *sizes, f"--json={kept}"]
    environment = os.environ | {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}

    def printed() -> list[str]:
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return run.stdout.splitlines()

    *_, note, ratio = printed()
    assert "not compiled: InvalidCxxCompiler" in note
    assert re.fullmatch(r"ratio \d+\.\d{3}", ratio)
    found = json.loads(kept.read_text())
    found["rows"][0]["to eager"] = 0.123  # so that a second measurement would be seen
    kept.write_text(json.dumps(found))
    assert printed()[-1] == "ratio 0.123"
