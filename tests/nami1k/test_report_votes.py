"""The command `report`, on a votes file that a server has open."""

import json
import subprocess
import sys

import pytest

from nami_jax.config import ConfigError
from nami_jax.nami1k.arena_app import VoteForm
from nami_jax.nami1k.report_votes import parse_weights
from tests.support.arena import ANSWERS, Files
from tests.support.paths import ROOT


def report(*flags):
    command = [sys.executable, "-m", "nami_jax.nami1k", "report", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_votes_become_a_page_and_json(tmp_path):
    files = Files(tmp_path, prompts=30)
    arena = files.arena()
    for name in ("one", "two"):
        rater = arena.votes.add_rater(name, name)
        for _ in range(30):
            task = arena.tasks(rater)["waiting"][0]
            assignment = arena.votes.find(rater.rater, task["id"])
            assert assignment is not None
            showing = assignment.showing
            good = "right" if showing.spoiled == "left" or (not showing.spoiled and showing.right == 1) else "left"
            form = {**task, "answers": dict.fromkeys(ANSWERS, good), "language": "en", "milliseconds": 2000}
            del form["prompt"]
            assert arena.vote(rater, VoteForm.model_validate(form))
    given = ["--votes", files.votes, "--prompts", files.prompts, "--draws=50"]
    run = report(*given, "--out", tmp_path / "report")
    assert run.returncode == 0, run.stderr
    first, second, last = run.stdout.splitlines()
    assert first.endswith("  B")
    assert second.endswith("  A")
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert last == f"{found['votes']['counted']} votes count; {tmp_path / 'report' / 'report.html'}"
    assert found["scores"]["overall"][1]["value"] > 90
    assert all(not record["set_aside"] and record["checks"] for record in found["raters"])
    assert found["self_agreement"]["overall"]["opposite"] == 0
    assert (tmp_path / "report" / "report.html").read_text().startswith("<!doctype html>")
    failed = report("--votes", files.votes, "--out", tmp_path / "other")
    assert failed.returncode == 2
    assert "is on the prompt set" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "other").exists()
    arena.votes.close()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["relevant=1"], "Did you mean 'relevance'"),
        (["realism"], "is no weight"),
        (["realism=-1"], "is no weight"),
        (["realism=nan"], "is no weight"),
        (["realism=0"], "are all 0"),
        ([], "are all 0"),
    ],
)
def test_weights_that_are_refused(given, said):
    assert parse_weights(["relevance=0.4", "overall=2"]) == {"relevance": 0.4, "overall": 2.0}
    with pytest.raises(ConfigError, match=said):
        parse_weights(given)
