"""What the nearest real pictures say of a sample: the right concept, the right style, a copy; and how samples vary.

Nearness is the cosine of features from which the mean of the real pictures is subtracted: what all pictures share says
nothing.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from scipy.stats import mannwhitneyu, rankdata

COPY_QUANTILE = 0.05  # of unseen real pictures, this share counts as copies


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """Real pictures among which the nearest is looked for.

    Attributes:
        features: (M, D).
        labels: kind -> (M,) texts, e.g. the concept and the style of each picture; {} if nothing is known.
        numbers: (M,) what identifies each picture; the same picture in two splits has one number.
    """

    features: np.ndarray
    labels: dict[str, np.ndarray]
    numbers: np.ndarray

    @functools.cached_property
    def centre(self) -> np.ndarray:
        """The mean (D,) of the features."""
        return self.features.mean(0)

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Returns the cosine distances (N, M), 0 to 2, of pictures with features (N, D)."""
        return cosine_distances(features, self.features, self.centre)


class Judgement(NamedTuple):
    """Whether pictures are right by their nearest real picture, and how often chance would have them so.

    Attributes:
        right: (N,) bool.
        chance: share that is right if pictures are drawn at random.
        closer: (N,) the chance that a right real picture is nearer than a wrong one, 0.5 where nothing is asked: the
            area under the ROC curve. It moves long before the nearest one is right.
    """

    right: np.ndarray
    chance: float
    closer: np.ndarray


def cosine_distances(x: np.ndarray, y: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Returns 1 − cosine (N, M) of the rows of x (N, D) and y (M, D), seen from `centre` (D,)."""
    x, y = ((of - centre) / np.maximum(np.linalg.norm(of - centre, axis=1, keepdims=True), 1e-12) for of in (x, y))
    return 1 - x @ y.T


def judge(
    distances: np.ndarray, wanted: dict[str, np.ndarray], numbers: np.ndarray, gallery: Gallery, kind: str
) -> Judgement:
    """Says which pictures have the right label of a kind: whether their nearest real picture has it, or how near.

    What would answer by something else is not asked: the picture itself that should be shown, and those that share
    another label with it. So a concept is judged by its pictures in other styles, and a style by other concepts'.

    Args:
        distances: (N, M) of pictures to the gallery's.
        wanted: kind -> (N,) the labels that the pictures should have.
        numbers: (N,) of the real pictures that they should show.
        gallery: the real pictures.
        kind: which label is judged.
    """
    asked = numbers[:, None] != gallery.numbers  # (N, M)
    for other in wanted.keys() - {kind}:
        asked &= wanted[other][:, None] != gallery.labels[other]
    same = asked & (wanted[kind][:, None] == gallery.labels[kind])  # (N, M)
    distances = np.where(asked, distances, np.inf)
    counts, rights = asked.sum(1), same.sum(1)  # (N,)
    pairs = rights * (counts - rights)
    # The Mann-Whitney statistic: ranks of the right ones, less those that they would have among themselves.
    before = (rankdata(distances, axis=1) * same).sum(1) - rights * (rights + 1) / 2
    return Judgement(
        same[np.arange(len(same)), distances.argmin(1)],
        float((rights / np.maximum(counts, 1)).mean()),
        np.where(pairs > 0, 1 - before / np.maximum(pairs, 1), 0.5),
    )


def is_original(distances: np.ndarray, numbers: np.ndarray, gallery: Gallery) -> np.ndarray:
    """Says which pictures (N,) are nearest of all to the very picture, called by `numbers` (N,), that they should show.

    Chance would have one of the gallery's different pictures right.
    """
    return gallery.numbers[distances.argmin(1)] == numbers


class Copying(NamedTuple):
    """How near pictures are to training pictures, by how near real pictures are that were not trained on."""

    nearer_than_unseen: (
        float  # chance that a sample is nearer to training than an unseen real picture; 0.5 for perfect samples
    )
    copies: float  # share of samples nearer than all but 5 % of the unseen real ones; 0.05 for perfect samples


def copying(to_training: np.ndarray, unseen_to_training: np.ndarray) -> Copying:
    """Compares distances (N,) of samples to their nearest training picture with those (M,) of unseen real pictures.

    Source: Meehan et al., "A Non-Parametric Test to Detect Data-Copying in Generative Models", arXiv 2004.05675: the
        first number is the Mann-Whitney statistic of their test, over the number of pairs.
    """
    # The method is of the p-value, which nobody asks for: "asymptotic" is the one that takes no time.
    found = mannwhitneyu(unseen_to_training, to_training, method="asymptotic")
    nearer = float(found.statistic) / (len(to_training) * len(unseen_to_training))
    return Copying(nearer, float((to_training < np.quantile(unseen_to_training, COPY_QUANTILE)).mean()))


def spread(features: np.ndarray, centre: np.ndarray) -> float:
    """Returns the mean cosine distance of two different pictures of features (N, D), N at least 2."""
    count = len(features)
    return float(cosine_distances(features, features, centre).sum() / (count * (count - 1)))


def clip_scores(pictures: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Returns CLIPScore (N,): 2.5 times the cosine, at least 0, of CLIP's features of pictures (N, D) and texts (N, D).

    Source: Hessel et al., arXiv 2104.08718, eq. 1; texts as they are, without a prefix.
    """
    return 2.5 * np.maximum(1 - np.diagonal(cosine_distances(pictures, texts, np.zeros(texts.shape[1]))), 0)
