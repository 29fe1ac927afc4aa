"""Lets simulated raters vote by a distance of features: `python -m nami_jax.nami1k simulate --help`.

Takes the picture whose features are nearer to those of the prompt's reference picture, `ID.png` in --reference, with
some noise. It is a check of the arena and its statistics, and no human preference: the votes file and the report call
these raters simulated. Gives all five questions the same answer, as a distance knows only one.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import flags

from nami_jax.files.row_pipe import RowProcess
from nami_jax.nami1k.arena_app import Arena, VoteForm
from nami_jax.nami1k.picture_folders import PictureFolder, read_folder, read_folders
from nami_jax.nami1k.prompt_set import read_prompts
from nami_jax.nami1k.questions import AXES, Answer
from nami_jax.nami1k.showings import Showing
from nami_jax.nami1k.votes_file import Rater, open_votes
from nami_jax.terminal.progress import progress_bar

FEATURES = "nami_jax.evaluation.feature_rows"
CHUNK = 32
TIE = 0.15  # leads below this are ties; a lead of 1 is a usual difference of distances


@dataclass(frozen=True)
class FeatureRater:
    """Votes by features (models, prompts, D) of pictures and (prompts, D) of references, all of length 1.

    Attributes:
        prompts: their ids.
        pictures: features of each model's pictures.
        references: features of the pictures that they should be like.
        noise: standard deviation of what is added to a lead, in usual differences.
    """

    prompts: tuple[str, ...]
    pictures: np.ndarray
    references: np.ndarray
    noise: float

    def distances(self) -> np.ndarray:
        """Returns (models, prompts) 1 - cosine of picture and reference."""
        return 1 - np.einsum("mpd,pd->mp", self.pictures, self.references)

    def usual(self) -> float:
        """Returns the median difference of two models' distances on a prompt."""
        distances = self.distances()
        first, second = np.triu_indices(len(distances), 1)
        return max(float(np.median(np.abs(distances[first] - distances[second]))), 1e-9)

    def answer(self, showing: Showing, rng: np.random.Generator) -> Answer:
        """Returns which of two pictures is nearer to the prompt's reference."""
        left, right = (self._distance(showing, side) for side in ("left", "right"))
        lead = (right - left) / self.usual() + rng.normal(0, self.noise)
        if abs(lead) < TIE:
            return "tie"
        return "left" if lead > 0 else "right"

    def _distance(self, showing: Showing, side: str) -> float:
        if showing.spoiled == side and showing.kind == "noised":
            return np.inf  # plain to see
        model = showing.left if side == "left" else showing.right
        shown = str(showing.other_prompt) if showing.spoiled == side else showing.prompt
        picture = self.pictures[model, self.prompts.index(shown)]
        return float(1 - picture @ self.references[self.prompts.index(showing.prompt)])


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_multi_string("images", [], "a model's folder of ID.png, or NAME=FOLDER; once for each model")
    flags.DEFINE_string("reference", None, "folder of the pictures that they should be like, ID.png", required=True)
    flags.DEFINE_string("votes", None, "file of the votes; made if it is not there", required=True)
    flags.DEFINE_string("prompts", None, "file of prompts; without it the thousand of NAMI-1K")
    flags.DEFINE_integer("raters", 5, "how many simulated raters vote", lower_bound=1, upper_bound=1000)
    flags.DEFINE_integer("votes_each", 100, "votes of each", lower_bound=1, upper_bound=100_000)
    flags.DEFINE_float("noise", 1.0, "of a vote, in usual differences of distances", lower_bound=0, upper_bound=1000)
    flags.DEFINE_integer("seed", 0, "of the noise")


def main(argv: list[str]) -> None:
    """Reads features, and votes."""
    del argv
    args = flags.FLAGS
    prompts = read_prompts(None if args.prompts is None else Path(args.prompts))
    names = tuple(prompt.id for prompt in prompts.prompts)
    folders = read_folders(args.images, names)
    reference = read_folder("reference", Path(args.reference).resolve(), names)
    with RowProcess(FEATURES) as rows:
        pictures = np.stack([_features(folder, names, rows) for folder in folders])
        voter = FeatureRater(names, pictures, _features(reference, names, rows), args.noise)
    note = f"cosine distance of EfficientNet-Lite0's features to reference pictures, noise {args.noise:g}"
    models = {folder.name: folder.digest for folder in folders}
    with contextlib.closing(open_votes(Path(args.votes), prompts.digest, models)) as votes:
        arena = Arena(votes, prompts, folders, args.votes_each)
        known = sum(rater.simulated is not None for rater in votes.raters())
        for number in progress_bar(range(known, known + args.raters), desc="raters", unit="rater"):
            rater = votes.add_rater(f"simulated-{number + 1:02}", None, note)
            count = vote_all(arena, rater, voter, np.random.default_rng([args.seed, number]))
            print(f"{rater.name}: {count} votes")


def vote_all(arena: Arena, rater: Rater, voter: FeatureRater, rng: np.random.Generator) -> int:
    """Lets a rater vote until the row ends, and returns how many votes that were."""
    count = 0
    while waiting := arena.tasks(rater)["waiting"]:
        for task in waiting:
            assignment = arena.votes.find(rater.rater, task["id"])
            assert assignment is not None
            answers = dict.fromkeys(AXES, voter.answer(assignment.showing, rng))
            form = {"id": task["id"], "revision": 0, "answers": answers, "language": "en", "milliseconds": 0}
            arena.vote(rater, VoteForm.model_validate(form))
            count += 1
    return count


def _features(folder: PictureFolder, prompts: Sequence[str], rows: RowProcess) -> np.ndarray:
    paths = [str(folder.folder / f"{name}.png") for name in prompts]
    starts = progress_bar(range(0, len(paths), CHUNK), desc=f"features of {folder.name}", unit="chunk")
    return np.concatenate([rows(paths[i : i + CHUNK]) for i in starts])
