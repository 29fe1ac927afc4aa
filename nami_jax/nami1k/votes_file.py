"""The votes file: raters, what each was shown, and what each answered; one SQLite database.

`serve` and `simulate` write it, one of them at a time; `report` reads it. Everything in it is ordered by the sequence
numbers that the database gives, never by time, so that a clock that jumps does no harm. A vote is in the file once or
not at all: its assignment's id and a revision name it, both are the server's, and the two are unique.
"""

import contextlib
import hashlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from nami_jax.config import ConfigError, shown
from nami_jax.files.disk import lock
from nami_jax.nami1k.questions import ANSWERS, AXES, Answer, Axis
from nami_jax.nami1k.showings import KINDS, Assignment, Showing

VERSION = 1
APPLICATION = 0x4E314B56  # "N1KV", by which SQLite's `application_id` knows the file


def _one_of(column: str, names: Sequence[str]) -> str:
    return f"{column} TEXT NOT NULL CHECK ({column} IN ({', '.join(map(repr, names))}))"


SCHEMA = f"""
CREATE TABLE arena (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, prompts TEXT NOT NULL,
  seed TEXT NOT NULL) STRICT;
CREATE TABLE models (model INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, pictures TEXT NOT NULL) STRICT;
CREATE TABLE raters (rater INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, token BLOB UNIQUE,
  simulated TEXT) STRICT;
CREATE TABLE assignments (sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
  rater INTEGER NOT NULL REFERENCES raters, place INTEGER NOT NULL, {_one_of("kind", KINDS)}, prompt TEXT NOT NULL,
  left INTEGER NOT NULL REFERENCES models, right INTEGER NOT NULL REFERENCES models,
  spoiled TEXT CHECK (spoiled IN ('left', 'right')), other_prompt TEXT, repeats INTEGER REFERENCES assignments,
  UNIQUE (rater, place)) STRICT;
CREATE TABLE votes (sequence INTEGER PRIMARY KEY AUTOINCREMENT, assignment INTEGER NOT NULL REFERENCES assignments,
  revision INTEGER NOT NULL, {", ".join(_one_of(axis, ANSWERS) for axis in AXES)}, language TEXT NOT NULL,
  milliseconds INTEGER NOT NULL, at TEXT NOT NULL, UNIQUE (assignment, revision)) STRICT;
CREATE VIEW final_votes AS SELECT * FROM votes AS v
  WHERE revision = (SELECT MAX(revision) FROM votes WHERE assignment = v.assignment);
"""


class VoteConflictError(Exception):
    """Another answer is stored where this one would go."""


class Rater(NamedTuple):
    """Who votes: number, name, and what simulates it, or None for a person."""

    rater: int
    name: str
    simulated: str | None


@dataclass(frozen=True)
class Vote:
    """Answers by axis, in which language the prompt was read, and how long it took."""

    answers: Mapping[Axis, Answer]
    language: str
    milliseconds: int


def token_hash(token: str) -> bytes:
    """Returns what the file keeps of a personal link: it cannot be turned back into the link."""
    return hashlib.sha256(token.encode()).digest()


class VotesFile:
    """An open votes file. Its methods may be called from several threads; a failed write leaves the file as it was."""

    def __init__(self, connection: sqlite3.Connection, lock_file: IO[Any], path: Path):
        """Takes what `open_votes` has opened."""
        self._connection, self._lock_file, self.path = connection, lock_file, path
        self._turn = threading.RLock()
        self.seed: str = connection.execute("SELECT seed FROM arena").fetchone()[0]

    def close(self) -> None:
        """Closes it; the write-ahead log is folded in, so that one file holds all."""
        with self._turn:
            self._connection.close()
            self._lock_file.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._turn:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:  # something failed; a full disk may have rolled back already
                    self._connection.execute("ROLLBACK")

    def _rows(self, query: str, *values: Any) -> list[tuple]:
        with self._turn:
            return self._connection.execute(query, values).fetchall()

    def raters(self) -> list[Rater]:
        """Returns all raters."""
        return [Rater(*row) for row in self._rows("SELECT rater, name, simulated FROM raters ORDER BY rater")]

    def add_rater(self, name: str, token: str | None, simulated: str | None = None) -> Rater:
        """Adds a rater: a person with a token, or a simulated one with a note on what votes."""
        hashed = None if token is None else token_hash(token)
        with self._writing() as db:
            row = db.execute("INSERT INTO raters (name, token, simulated) VALUES (?, ?, ?)", (name, hashed, simulated))
            return Rater(int(row.lastrowid or 0), name, simulated)

    def renew_token(self, rater: Rater, token: str) -> None:
        """Gives a person another token; the one before is void."""
        with self._writing() as db:
            db.execute("UPDATE raters SET token = ? WHERE rater = ?", (token_hash(token), rater.rater))

    def rater_of(self, token: str) -> Rater | None:
        """Returns whose token it is."""
        rows = self._rows("SELECT rater, name, simulated FROM raters WHERE token = ?", token_hash(token))
        return Rater(*rows[0]) if rows else None

    def assignments(self) -> list[Assignment]:
        """Returns all assignments in the order in which they were made."""
        return [_assignment(row) for row in self._rows(f"SELECT {_COLUMNS} FROM assignments ORDER BY sequence")]

    def final_answers(self, axis: Axis) -> dict[int, Answer]:
        """Returns what counts on one axis, by the assignment's sequence number."""
        return dict(self._rows(f"SELECT assignment, {axis} FROM final_votes"))

    def find(self, rater: int, name: str) -> Assignment | None:
        """Returns a rater's assignment by its id; nobody else's."""
        query = f"SELECT {_COLUMNS} FROM assignments WHERE id = ? AND rater = ?"
        return next((_assignment(row) for row in self._rows(query, name, rater)), None)

    def unanswered(self, rater: int) -> list[Assignment]:
        """Returns the assignments of a rater that have no vote, in order."""
        query = (
            f"SELECT {_COLUMNS} FROM assignments WHERE rater = ? AND NOT EXISTS "
            "(SELECT 1 FROM votes WHERE assignment = assignments.sequence) ORDER BY place"
        )
        return [_assignment(row) for row in self._rows(query, rater)]

    def answered(self, rater: int, back: int) -> Assignment | None:
        """Returns the `back`th last of the assignments that a rater has voted on, by their place in the row."""
        query = (
            f"SELECT {_COLUMNS} FROM assignments WHERE rater = ? AND EXISTS "
            "(SELECT 1 FROM votes WHERE assignment = assignments.sequence) ORDER BY place DESC LIMIT 1 OFFSET ?"
        )
        return next((_assignment(row) for row in self._rows(query, rater, back - 1)), None)

    def places(self, rater: int) -> tuple[int, int]:
        """Returns how many assignments a rater has been given, and on how many there is a vote."""
        given = self._rows("SELECT COUNT(*) FROM assignments WHERE rater = ?", rater)[0][0]
        return given, given - len(self.unanswered(rater))

    def assign(self, rater: int, place: int, showing: Showing) -> Assignment:
        """Writes down what a rater is shown next, before it is shown, and names it by a random id."""
        name, values = secrets.token_urlsafe(16), tuple(vars(showing).values())
        with self._writing() as db:
            query = f"INSERT INTO assignments (id, rater, place, {', '.join(vars(showing))}) VALUES (?{', ?' * 9})"
            sequence = db.execute(query, (name, rater, place, *values)).lastrowid
        return Assignment(int(sequence or 0), name, rater, place, showing)

    def votes_on(self, assignment: Assignment) -> list[Vote]:
        """Returns the revisions of the vote on an assignment, the one that counts last."""
        columns = f"language, milliseconds, {', '.join(AXES)}"
        query = f"SELECT {columns} FROM votes WHERE assignment = ? ORDER BY revision"
        rows = self._rows(query, assignment.sequence)
        return [Vote(dict(zip(AXES, row[2:], strict=True)), *row[:2]) for row in rows]

    def store(self, assignment: Assignment, revision: int, vote: Vote) -> bool:
        """Stores a vote; said twice, it is stored once.

        Args:
            assignment: what was voted on.
            revision: 0 for the first vote, one more for each correction.
            vote: what was answered.

        Returns:
            Whether it was new.

        Raises:
            VoteConflictError: that revision holds other answers, or one before it is missing.
            sqlite3.OperationalError: it could not be written, as on a full disk; nothing has changed.
        """
        values = (assignment.sequence, revision, *(vote.answers[axis] for axis in AXES))
        with self._writing() as db:
            before = self.votes_on(assignment)
            if revision < len(before):
                if before[revision].answers == dict(vote.answers):
                    return False
                raise VoteConflictError(f"revision {revision} is stored with other answers")
            if revision > len(before):
                raise VoteConflictError(f"revision {revision} before revision {len(before)}")
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            columns = f"assignment, revision, {', '.join(AXES)}, language, milliseconds, at"
            query = f"INSERT INTO votes ({columns}) VALUES (?{', ?' * 9})"
            db.execute(query, (*values, vote.language, vote.milliseconds, at))
        return True


_COLUMNS = "sequence, id, rater, place, kind, prompt, left, right, spoiled, other_prompt, repeats"


def _assignment(row: tuple) -> Assignment:
    sequence, name, rater, place, *shown = row
    return Assignment(sequence, name, rater, place, Showing(*shown))


def open_votes(path: Path, prompts: str, models: Mapping[str, str]) -> VotesFile:
    """Opens a votes file for writing, or makes it.

    Args:
        path: of the file.
        prompts: digest of the prompt set.
        models: name -> digest of its pictures, in the order of their numbers from 0.

    Raises:
        ConfigError: it is no votes file, or one of another version, prompt set or pictures; another process writes it;
            or it cannot be read and written.
    """
    with contextlib.ExitStack() as opened:
        lock_file = opened.enter_context(_locked(path))
        try:
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            opened.callback(connection.close)
            _prepare(connection, path, prompts, models)
        except sqlite3.Error as error:
            raise ConfigError(_cannot(path, error)) from error
        opened.pop_all()  # both stay open
        return VotesFile(connection, lock_file, path)


def _locked(path: Path) -> IO[Any]:
    try:
        lock_file = path.with_name(f"{path.name}.lock").open("ab")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", error)
        remedy = "Name a file in a folder that exists and can be written"
        raise ConfigError(f"--votes = {shown(str(path))}: cannot be opened: {reason}. {remedy}.") from error
    try:
        lock(lock_file)
    except BlockingIOError as error:
        lock_file.close()
        raise ConfigError(f"--votes = {shown(str(path))}: another process writes it. Stop that one first.") from error
    except OSError as error:
        lock_file.close()
        remedy = "Keep votes on a local disk"
        raise ConfigError(f"--votes = {shown(str(path))}: its file system has no locks. {remedy}.") from error
    return lock_file


def _prepare(connection: sqlite3.Connection, path: Path, prompts: str, models: Mapping[str, str]) -> None:
    if empty := not connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
        connection.execute("PRAGMA journal_mode = WAL")
    else:
        require_votes_file(connection, path)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("BEGIN IMMEDIATE")
    if empty:
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        for statement in filter(str.strip, SCHEMA.split(";")):
            connection.execute(statement)
        connection.execute("INSERT INTO arena VALUES (1, ?, ?, ?)", (VERSION, prompts, secrets.token_hex(16)))
        rows = [(number, *model) for number, model in enumerate(models.items())]
        connection.executemany("INSERT INTO models VALUES (?, ?, ?)", rows)
    connection.execute("COMMIT")
    require_prompts(connection, path, prompts)
    known = dict(connection.execute("SELECT name, pictures FROM models ORDER BY model").fetchall())
    if list(known) != list(models):
        raise _other(path, f"is on the models {', '.join(known)}, in this order", "Give those with --images")
    for name, digest in models.items():
        if known[name] != digest:
            raise _other(path, f"is on other pictures of {name!r}", "Give the folder that it was begun with")


def require_votes_file(connection: sqlite3.Connection, path: Path) -> None:
    """Raises `ConfigError` unless an open database is a votes file of this version."""
    mark = connection.execute("PRAGMA application_id").fetchone()[0]
    if mark != APPLICATION:
        raise ConfigError(f"--votes = {shown(str(path))}: is another program's database. Name a votes file.")
    version = connection.execute("SELECT version FROM arena").fetchone()[0]
    if version != VERSION:
        raise _other(path, f"has version {version}, and this program reads version {VERSION}", "Use its program")


def require_prompts(connection: sqlite3.Connection, path: Path, prompts: str) -> None:
    """Raises `ConfigError` unless a votes file is on the prompt set with this digest."""
    digest = connection.execute("SELECT prompts FROM arena").fetchone()[0]
    if digest != prompts:
        rule = f"is on the prompt set {digest[:12]}, not on {prompts[:12]}"
        raise _other(path, rule, "Give its prompt set with --prompts, or begin another votes file")


def _other(path: Path, rule: str, remedy: str) -> ConfigError:
    return ConfigError(f"--votes = {shown(str(path))}: {rule}. {remedy}.")


def _cannot(path: Path, error: sqlite3.Error) -> str:
    return f"--votes = {shown(str(path))}: cannot be read and written: {error}. Name a votes file that can be."
