"""Raters that vote by a distance: what they prefer, that they are called simulated, and the command."""

import subprocess

import numpy as np
import pytest

from nami_jax.nami1k.ballots import read_ballots
from nami_jax.nami1k.prompt_set import read_prompts
from nami_jax.nami1k.showings import Showing
from nami_jax.nami1k.simulate import FeatureRater, vote_all
from nami_jax.nami1k.vote_report import make_report
from tests.support.arena import Files, write_pictures
from tests.support.paths import ROOT

PROMPTS = tuple(f"p{i:03}" for i in range(12))


def unit(angles):
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def voter(noise=0.0):
    """References at various angles; model 0 is near to them, model 1 is 0.4 away."""
    at = np.linspace(0, 3, 12)
    return FeatureRater(PROMPTS, np.stack([unit(at + 0.05), unit(at + 0.4)]), unit(at), noise)


def test_distances_worked_by_hand():
    near, far = 1 - np.cos(0.05), 1 - np.cos(0.4)
    assert voter().distances() == pytest.approx(np.array([[near] * 12, [far] * 12]))
    assert voter().usual() == pytest.approx(far - near)


@pytest.mark.parametrize(
    ("showing", "answer"),
    [
        (Showing("pair", "p003", 0, 1), "left"),
        (Showing("pair", "p003", 1, 0), "right"),
        (Showing("noised", "p003", 1, 1, "left"), "right"),
        (Showing("noised", "p003", 1, 1, "right"), "left"),
        (Showing("other_prompt", "p003", 0, 0, "left", "p009"), "right"),
        (Showing("pair", "p003", 0, 0), "tie"),
    ],
)
def test_the_nearer_picture_is_preferred(showing, answer):
    assert voter().answer(showing, np.random.default_rng(0)) == answer


def test_noise_lets_the_further_one_win_now_and_then():
    rng = np.random.default_rng(0)
    answers = [voter(noise=1.0).answer(Showing("pair", "p003", 0, 1), rng) for _ in range(400)]
    assert 0.7 < answers.count("left") / 400 < 0.9  # the normal distribution up to 0.85 has 0.80
    assert "right" in answers


def test_votes_go_through_the_arena_and_are_called_simulated(tmp_path):
    files = Files(tmp_path)
    arena = files.arena(votes_each=30)
    rater = arena.votes.add_rater("simulated-01", None, "by an angle")
    count = vote_all(arena, rater, voter(), np.random.default_rng(0))
    arena.votes.close()
    prompts = read_prompts(files.prompts)
    report = make_report(read_ballots(files.votes, prompts.digest), prompts, {"overall": 1.0}, draws=50)
    assert report["simulated"] == ["by an angle"]
    assert report["votes"]["all"] == count >= 12
    assert report["raters"][0]["failed"] == 0
    assert report["scores"]["overall"][0]["value"] > 90


def test_the_command(tmp_path):
    files = Files(tmp_path, prompts=6)
    reference = write_pictures(tmp_path / "E", files.prompts)
    command = files.command("--reference", reference, "--raters=2", "--votes_each=8")
    command[command.index("serve")] = "simulate"
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert "simulated-02: " in run.stdout
    ballots = read_ballots(files.votes, read_prompts(files.prompts).digest)
    assert ballots.raters == ("simulated-01", "simulated-02")
    assert all("EfficientNet" in str(note) for note in ballots.simulated)
    assert len(ballots) >= 12
