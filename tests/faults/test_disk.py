"""A disk that is full, and one that cannot be written."""

import json
import re
import subprocess
import sys

import pytest

from tests.faults.commands import STEPS, Commands, environment
from tests.faults.mounts import mounted
from tests.support import patience
from tests.support.paths import ROOT


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


def fill(action, disk, *arguments):
    """Runs an action of `full_disk` on a small disk; returns what it reports and all else that it prints."""
    command = [sys.executable, "-m", "tests.faults.full_disk", action, str(disk), str(disk.parent), *arguments]
    run = patience.run(mounted(disk, "size=20m", command), 600, env=environment(disk.parent / "cache"), cwd=ROOT)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")], run.stderr


@pytest.mark.parametrize("points", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_wherever_space_ends_the_error_is_clear_and_nothing_older_is_lost(disk, points):
    reports, _ = fill("save", disk, str(points))
    assert len(reports) == points
    for report in reports:
        assert report["error"] == "CheckpointError", report
        assert f"{disk}/run/checkpoints: saving failed, the disk is full" in report["message"]
        assert f"checkpoints are intact: [1, 2{', 3' * (report['newest'] == 3)}]" in report["message"]
        assert "Free space and rerun the same command: it continues from the newest." in report["message"]
        assert report["newest"] >= 2
        assert report["seconds"] < 60
        assert not report["differing"], report  # from an undisturbed run, once there was space again
    # Some failed at once, some within the first save, some in the second.
    assert {report["newest"] for report in reports} == {2, 3}


@pytest.mark.slow
def test_the_command_ends_with_an_error_and_no_traceback_and_then_continues(disk):
    reports, _ = fill("command", disk)
    output = {report["name"]: report["output"] for report in reports}
    for name in ("grid", "save"):
        last = output[name].splitlines()[-1]
        assert last.startswith(f"error: {disk}/run/checkpoints: saving failed, the disk is full"), last
        assert "Traceback" not in output[name], output[name]
    # Not only at the next save, 100 steps later.
    assert 100 <= max(map(int, re.findall(rf"(\d+)/{STEPS}", output["save"]))) < 200
    assert "Sample from it" in output["after"]


def test_events_that_cannot_be_written_are_an_error_and_do_not_hang(disk):
    reports, output = fill("events", disk)
    assert [report["error"] for report in reports] == ["OSError", "OSError"]
    assert all("No space left" in report["message"] and report["seconds"] < 30 for report in reports)
    assert "Traceback" not in output


def test_a_read_only_workdir_is_refused_before_anything_is_compiled(disk, tmp_path):
    commands = Commands(tmp_path)
    command = mounted(disk, "size=1m,ro", commands.arguments(disk / "run"))
    run = subprocess.run(command, env=environment(tmp_path / "cache"), cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        f"error: workdir = '{disk}/run': cannot be written: Read-only file system. "
        "Set a folder that can be created and written."
    )
    assert "compiling" not in run.stderr
    assert "Traceback" not in run.stderr
