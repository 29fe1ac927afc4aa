"""Votes as arrays, read from a votes file."""

import sqlite3

import numpy as np
import pytest

from nami_jax.config import ConfigError
from nami_jax.nami1k.ballots import BOTH_BAD, LEFT, read_ballots
from nami_jax.nami1k.showings import Showing
from nami_jax.nami1k.votes_file import Vote, open_votes
from tests.support.arena import ANSWERS

MODELS = {"A": "a", "B": "b", "C": "c"}


@pytest.fixture
def votes(tmp_path):
    opened = open_votes(tmp_path / "votes.db", "prompts", MODELS)
    yield opened
    opened.close()


def fill(votes):
    one, other = votes.add_rater("rater-01", "token"), votes.add_rater("probe", None, "by a distance")
    first = votes.assign(one.rater, 0, Showing("pair", "p1", 2, 0))
    check = votes.assign(one.rater, 1, Showing("noised", "p2", 1, 1, "right"))
    again = votes.assign(other.rater, 0, Showing("repeat", "p1", 0, 2, repeats=first.sequence))
    votes.assign(other.rater, 1, Showing("pair", "p3", 0, 1))  # no vote
    votes.store(again, 0, Vote(ANSWERS, "en", 100))
    votes.store(first, 0, Vote(ANSWERS, "en", 100))
    votes.store(first, 1, Vote({**ANSWERS, "overall": "both_bad"}, "zh", 200))
    votes.store(check, 0, Vote(ANSWERS, "en", 300))


def test_final_votes_in_the_order_of_their_showings(votes):
    fill(votes)
    ballots = read_ballots(votes.path, "prompts")  # while it is open for writing
    assert ballots.models == ("A", "B", "C")
    assert ballots.prompts == ("p1", "p2")
    assert ballots.raters == ("rater-01", "probe")
    assert ballots.simulated == (None, "by a distance")
    assert ballots.sequence.tolist() == [1, 2, 3]
    assert ballots.rater.tolist() == [0, 0, 1]
    assert ballots.prompt.tolist() == [0, 1, 0]
    assert ballots.left.tolist() == [2, 1, 0]
    assert ballots.right.tolist() == [0, 1, 2]
    assert ballots.kind.tolist() == ["pair", "noised", "repeat"]
    assert ballots.spoiled.tolist() == [-1, 1, -1]
    assert ballots.repeats.tolist() == [-1, -1, 1]
    assert ballots.answers[:, 4].tolist() == [BOTH_BAD, LEFT, LEFT]
    assert ballots.milliseconds.tolist() == [200, 300, 100]
    assert ballots.preferred()[:, 0].tolist() == [-1, -1, 1]  # the model of higher number was on the left
    assert len(ballots.counted()) == 1
    assert ballots.where(np.array([2])).rater.tolist() == [1]


def test_raters_and_votes_are_those_of_one_moment(votes, monkeypatch):
    fill(votes)

    def vote_meanwhile(statement):
        if "final_votes" in statement:
            rater = votes.add_rater("late", "late token")
            votes.store(votes.assign(rater.rater, 0, Showing("pair", "p4", 0, 1)), 0, Vote(ANSWERS, "en", 100))

    def connect(*args, open_file=sqlite3.connect, **options):
        connection = open_file(*args, **options)
        connection.set_trace_callback(vote_meanwhile)  # when votes are about to be read
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect)
    assert read_ballots(votes.path, "prompts").raters == ("rater-01", "probe")
    monkeypatch.undo()
    assert read_ballots(votes.path, "prompts").raters == ("rater-01", "probe", "late")


def test_an_empty_file_has_no_votes(votes):
    ballots = read_ballots(votes.path, "prompts")
    assert len(ballots) == 0
    assert ballots.answers.shape == (0, 5)


def test_a_published_copy_is_read_from_a_folder_that_cannot_be_written(votes, tmp_path):
    fill(votes)
    votes.close()
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "votes.db").write_bytes(votes.path.read_bytes())
    folder.chmod(0o500)
    assert len(read_ballots(folder / "votes.db", "prompts")) == 3
    assert [path.name for path in folder.iterdir()] == ["votes.db"]
    folder.chmod(0o700)


def test_what_cannot_be_read_is_said(votes, tmp_path):
    with pytest.raises(ConfigError, match="is on the prompt set prompts, not on others"):
        read_ballots(votes.path, "others")
    with pytest.raises(ConfigError, match="there is no such file"):
        read_ballots(tmp_path / "nothing.db", "prompts")
    (tmp_path / "text.db").write_text("x" * 5000)
    sqlite3.connect(tmp_path / "empty.db").close()
    for name in ("text.db", "empty.db"):
        with pytest.raises(ConfigError, match="Name a votes file"):
            read_ballots(tmp_path / name, "prompts")
