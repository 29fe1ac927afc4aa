"""The votes file: a vote once or not at all, whatever else happens; a file of something else is refused."""

import sqlite3

import pytest

from nami_jax.config import ConfigError
from nami_jax.nami1k.showings import Showing
from nami_jax.nami1k.votes_file import Vote, VoteConflictError, open_votes, token_hash
from tests.support.arena import ANSWERS

MODELS = {"A": "digest of A", "B": "digest of B"}
VOTE = Vote(ANSWERS, "en", 1200)
OTHER = Vote({**ANSWERS, "overall": "tie"}, "zh", 800)


@pytest.fixture
def votes(tmp_path):
    opened = open_votes(tmp_path / "votes.db", "prompts", MODELS)
    yield opened
    opened.close()


def rows(path, query):
    db = sqlite3.connect(path)
    found = db.execute(query).fetchall()
    db.close()
    return found


def test_a_vote_said_twice_is_stored_once(votes):
    rater = votes.add_rater("rater-01", "token")
    assignment = votes.assign(rater.rater, 0, Showing("pair", "p1", 0, 1))
    assert votes.unanswered(rater.rater) == [assignment]
    assert votes.store(assignment, 0, VOTE) is True
    assert votes.store(assignment, 0, VOTE) is False
    assert votes.votes_on(assignment) == [VOTE]
    assert votes.unanswered(rater.rater) == []
    assert votes.places(rater.rater) == (1, 1)


def test_a_correction_is_a_revision_and_the_last_counts(votes):
    rater = votes.add_rater("rater-01", "token")
    assignment = votes.assign(rater.rater, 0, Showing("pair", "p1", 0, 1))
    votes.store(assignment, 0, VOTE)
    votes.store(assignment, 1, OTHER)
    assert votes.votes_on(assignment) == [VOTE, OTHER]
    assert rows(votes.path, "SELECT overall FROM final_votes") == [("tie",)]
    for revision, vote in ((0, OTHER), (1, VOTE), (3, VOTE)):
        with pytest.raises(VoteConflictError):
            votes.store(assignment, revision, vote)
    assert len(votes.votes_on(assignment)) == 2


def test_assignments_are_found_by_their_rater_alone(votes):
    one, other = votes.add_rater("rater-01", "token"), votes.add_rater("rater-02", "another")
    first, second = (votes.assign(one.rater, i, Showing("noised", "p1", 0, 0, "left")) for i in range(2))
    assert votes.find(one.rater, first.id) == first
    assert votes.find(other.rater, first.id) is None
    assert votes.answered(one.rater, 1) is None
    votes.store(second, 0, VOTE)
    votes.store(first, 0, VOTE)
    assert [votes.answered(one.rater, back) for back in (1, 2, 3)] == [second, first, None]  # by place, not by time
    with pytest.raises(sqlite3.IntegrityError):
        votes.assign(one.rater, 1, Showing("pair", "p1", 0, 1))  # one place, one assignment


def test_tokens_are_hashed_and_can_be_renewed(votes):
    rater = votes.add_rater("rater-01", "a-secret-token")
    assert votes.rater_of("a-secret-token") == rater
    votes.renew_token(rater, "a-new-token")
    assert votes.rater_of("a-secret-token") is None
    assert votes.rater_of("a-new-token") == rater
    assert rows(votes.path, "SELECT token FROM raters") == [(token_hash("a-new-token"),)]
    written = b"".join(path.read_bytes() for path in votes.path.parent.glob("votes.db*"))
    assert b"token" in written  # the column's name
    assert b"a-new-token" not in written


def test_it_opens_again_with_everything_and_its_seed(tmp_path, votes):
    rater = votes.add_rater("rater-01", "token")
    assignment = votes.assign(rater.rater, 0, Showing("other_prompt", "p1", 1, 1, "right", "p2"))
    votes.store(assignment, 0, VOTE)
    seed = votes.seed
    votes.close()
    assert not (tmp_path / "votes.db-wal").exists()  # one file holds all
    again = open_votes(tmp_path / "votes.db", "prompts", MODELS)
    assert again.seed == seed
    assert again.assignments() == [assignment]
    assert again.votes_on(assignment) == [VOTE]
    again.close()


@pytest.mark.parametrize(
    ("prompts", "models", "said"),
    [
        ("others", MODELS, "is on the prompt set prompts, not on others"),
        ("prompts", {"A": "digest of A"}, "is on the models A, B"),
        ("prompts", {"B": "digest of B", "A": "digest of A"}, "in this order"),
        ("prompts", {**MODELS, "B": "new"}, "is on other pictures of 'B'"),
    ],
)
def test_a_file_on_something_else_is_refused_and_kept(votes, prompts, models, said):
    votes.close()
    before = votes.path.read_bytes()
    with pytest.raises(ConfigError, match=said):
        open_votes(votes.path, prompts, models)
    assert votes.path.read_bytes() == before
    open_votes(votes.path, "prompts", MODELS).close()  # and its lock is free


def test_a_file_of_another_version_is_refused(votes):
    votes.close()
    db = sqlite3.connect(votes.path)
    db.execute("UPDATE arena SET version = 2")
    db.commit()
    db.close()
    with pytest.raises(ConfigError, match="has version 2, and this program reads version 1"):
        open_votes(votes.path, "prompts", MODELS)


def test_what_is_no_votes_file_is_refused_untouched(tmp_path):
    (tmp_path / "text.db").write_text("not a database " * 100)
    db = sqlite3.connect(tmp_path / "other.db")
    db.execute("CREATE TABLE mine (x)")
    db.commit()
    db.close()
    for name, said in (("text.db", "cannot be read and written"), ("other.db", "another program's database")):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(ConfigError, match=said):
            open_votes(tmp_path / name, "prompts", MODELS)
        assert (tmp_path / name).read_bytes() == before
    for name in ("nowhere/votes.db", "bad\0name"):
        with pytest.raises(ConfigError, match="cannot be opened"):
            open_votes(tmp_path / name, "prompts", MODELS)


def test_two_writers_are_one_too_many(votes):
    with pytest.raises(ConfigError, match="another process writes it"):
        open_votes(votes.path, "prompts", MODELS)


def test_a_full_disk_loses_nothing_that_is_stored(votes):
    rater = votes.add_rater("rater-01", "token")
    db = votes._connection
    db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
    stored = []

    def vote_on():
        while True:
            assignment = votes.assign(rater.rater, len(stored), Showing("pair", "p1", 0, 1))
            stored.append(votes.store(assignment, 0, VOTE))

    with pytest.raises(sqlite3.OperationalError, match="full"):
        vote_on()
    assert rows(votes.path, "SELECT COUNT(*) FROM votes") == [(len(stored),)] != [(0,)]
    db.execute("PRAGMA max_page_count = 1000000")
    waiting = votes.unanswered(rater.rater) or [votes.assign(rater.rater, len(stored), Showing("pair", "p1", 0, 1))]
    assert votes.store(waiting[0], 0, VOTE)
    assert rows(votes.path, "PRAGMA integrity_check") == [("ok",)]


def test_the_schema_refuses_what_no_program_should_write(votes):

    db = sqlite3.connect(votes.path)
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        db.execute("INSERT INTO assignments VALUES (1, 'x', 1, 0, 'pair', 'p', 0, 1, 'above', NULL, NULL)")
    db.close()
