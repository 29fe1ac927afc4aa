"""Votes as arrays: what `report` reads from a votes file, and what its statistics are made of."""

import dataclasses
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nami_jax.config import ConfigError, shown
from nami_jax.nami1k.questions import ANSWERS, AXES
from nami_jax.nami1k.showings import SIDES
from nami_jax.nami1k.votes_file import require_prompts, require_votes_file

COUNTED = ("pair", "shared")  # kinds of showings whose votes count towards scores
LEFT, RIGHT, TIE, BOTH_BAD = range(4)  # indices of ANSWERS


@dataclass(frozen=True)
class Ballots:
    """Final votes, in the order of their showings, as arrays over V votes.

    Attributes:
        models: their names.
        prompts: ids of all prompts that were shown.
        raters: their names.
        simulated: what simulates each rater; None for a person.
        sequence: (V,) of the assignment.
        rater: (V,) index into `raters`.
        prompt: (V,) index into `prompts`.
        left: (V,) index into `models`.
        right: (V,) as `left`.
        kind: (V,) text, see `Showing`.
        spoiled: (V,) 0 or 1 for the left or right side; -1: none.
        repeats: (V,) sequence of the assignment that is shown again; -1: none.
        answers: (V, axes) index into `ANSWERS`.
        milliseconds: (V,) that each vote took.
    """

    models: tuple[str, ...]
    prompts: tuple[str, ...]
    raters: tuple[str, ...]
    simulated: tuple[str | None, ...]
    sequence: np.ndarray
    rater: np.ndarray
    prompt: np.ndarray
    left: np.ndarray
    right: np.ndarray
    kind: np.ndarray
    spoiled: np.ndarray
    repeats: np.ndarray
    answers: np.ndarray
    milliseconds: np.ndarray

    def __len__(self) -> int:
        return len(self.rater)

    def where(self, chosen: np.ndarray) -> "Ballots":
        """Returns the chosen votes, by a mask (V,) or indices; the names stay."""
        arrays = {
            field.name: value[chosen]
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), np.ndarray)
        }
        return dataclasses.replace(self, **arrays)

    def counted(self) -> "Ballots":
        """Returns the votes that count towards scores: no checks, no repetitions."""
        return self.where(np.isin(self.kind, COUNTED))

    def preferred(self) -> np.ndarray:
        """Returns (V, axes): 1 where the model of lower number was preferred, -1 the other, 0 a tie or both bad."""
        side = np.select([self.answers == LEFT, self.answers == RIGHT], [1, -1], 0)
        return np.where((self.left < self.right)[:, None], side, -side)


def read_ballots(path: Path, prompts: str) -> Ballots:
    """Reads the final votes of a votes file, which a server may be writing meanwhile.

    Args:
        path: of the file.
        prompts: digest of the prompt set.

    Raises:
        ConfigError: there is none, or it is no votes file or one of another version or prompt set.
    """
    if not path.is_file():
        raise ConfigError(f"--votes = {shown(str(path))}: there is no such file. Name the votes file that serve wrote.")
    # A file in a folder that cannot be written is nobody's to write, and has no log beside it.
    still = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
    try:
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{still}", uri=True, timeout=10)
        try:
            require_votes_file(db, path)
            require_prompts(db, path, prompts)
            db.execute("BEGIN")  # what follows is read as of one moment: else one may vote who was no rater yet
            return _read(db)
        finally:
            db.close()
    except sqlite3.Error as error:
        raise ConfigError(f"--votes = {shown(str(path))}: cannot be read: {error}. Name a votes file.") from error


def _read(db: sqlite3.Connection) -> Ballots:
    models = [name for (name,) in db.execute("SELECT name FROM models ORDER BY model")]
    people = db.execute("SELECT rater, name, simulated FROM raters ORDER BY rater").fetchall()
    query = (
        f"SELECT a.sequence, a.rater, a.prompt, a.left, a.right, a.kind, a.spoiled, a.repeats, v.milliseconds, "
        f"{', '.join(f'v.{axis}' for axis in AXES)} FROM final_votes AS v JOIN assignments AS a "
        "ON v.assignment = a.sequence ORDER BY a.sequence"
    )
    rows = db.execute(query).fetchall()
    names = tuple(dict.fromkeys(row[2] for row in rows))
    of_rater = {number: i for i, (number, _, _) in enumerate(people)}
    of_prompt = {name: i for i, name in enumerate(names)}
    columns = list(zip(*rows, strict=True)) if rows else [()] * (9 + len(AXES))
    codes = {answer: i for i, answer in enumerate(ANSWERS)}
    answers = [[codes[answer] for answer in column] for column in columns[9:]]
    return Ballots(
        tuple(models),
        names,
        tuple(name for _, name, _ in people),
        tuple(simulated for _, _, simulated in people),
        np.array(columns[0], np.int64),
        np.array([of_rater[number] for number in columns[1]], np.int64),
        np.array([of_prompt[name] for name in columns[2]], np.int64),
        np.array(columns[3], np.int64),
        np.array(columns[4], np.int64),
        np.array(columns[5], np.str_),
        np.array([-1 if side is None else SIDES.index(side) for side in columns[6]], np.int64),
        np.array([-1 if again is None else again for again in columns[7]], np.int64),
        np.array(answers, np.int64).T.reshape(len(rows), len(AXES)),
        np.array(columns[8], np.int64),
    )
