"""From samples of a split's captions to scores: what to sample, what to compare it with, and all that is measured."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nami_jax.config import DataConfig, EvaluationConfig, require
from nami_jax.evaluation.coverage import clipped_coverage, clipped_density
from nami_jax.evaluation.distances import NEIGHBOURS, RealFeatures, cmmd, frechet, kid, sliced_wasserstein
from nami_jax.evaluation.features import ClipNetwork, FeatureNetwork, load_features
from nami_jax.evaluation.intervals import Score, mean_score, score
from nami_jax.evaluation.neighbours import (
    COPY_QUANTILE,
    Gallery,
    clip_scores,
    copying,
    cosine_distances,
    is_original,
    judge,
    spread,
)
from nami_jax.evaluation.real_pictures import FOLDER, Decode, RealPictures, open_real, real_features, splits_of

DISTANCES = {
    "kid": kid,
    "frechet": frechet,
    "sliced_wasserstein": sliced_wasserstein,
    "clipped_density": clipped_density,
    "clipped_coverage": clipped_coverage,
}
PACKAGED = "efficientnet_lite0"  # whose weights come with a package
FEWEST = NEIGHBOURS + 1  # real pictures that density and coverage need


class Measurement(NamedTuple):
    """What was measured.

    Attributes:
        scores: by name; those of distances between sets of pictures end in the name of their features.
        pictures: name -> (seeds, N) of every picture: `squared_error`, `from_original` (its cosine distance to it),
            `nearest_trained` (the number in the gallery), and `concept` and `style`, whether they are right.
    """

    scores: dict[str, Score]
    pictures: dict[str, np.ndarray]


class Evaluation:
    """One split of one data set, ready to judge samples of its captions: `captions` (N,), which were chosen by seed.

    Real pictures are opened when it is built, and their features computed at the first use, once for all checkpoints.
    """

    def __init__(
        self,
        data: DataConfig,
        settings: EvaluationConfig,
        decode: Decode | None = None,
        *,
        networks: Mapping[str, FeatureNetwork] | None = None,
        progress: bool = False,
    ):
        """Chooses the captions.

        Args:
            data: the data set; `train_split` is what counts as trained on, and where the split is just that,
                `eval_split` what counts as unseen.
            settings: what is measured, on how many pictures.
            decode: makes pixels of prepared latents; None for pixels.
            networks: of one's own, in place of those in `settings.features`; the first one judges.
            progress: show bars while features of real pictures are computed.

        Raises:
            ConfigError: the data set or the split does not exist, or has too few pictures to measure anything.
        """
        self.data, self.settings, self._given, self._progress = data, settings, networks, progress
        trained, held_out = splits_of(data)
        names = dict.fromkeys((settings.split or held_out, trained, held_out))
        self.pictures = [open_real(data, name, settings, decode) for name in names]  # the split's own first
        self._require_enough()
        rng, captions = np.random.default_rng(settings.seed), self.real.captions
        count = min(settings.num_images, len(self.real))
        self.chosen = np.sort(rng.choice(len(self.real), count, replace=False))  # (N,) of the split's pictures
        self.captions = [captions[i][rng.integers(len(captions[i]))] for i in self.chosen]
        self.originals = self.real.pixels(self.chosen)  # (N, H, W, 3) uint8

    @property
    def real(self) -> RealPictures:
        """The pictures of the split."""
        return self.pictures[0]

    def _require_enough(self) -> None:
        require(
            len(self.real) >= FEWEST,
            field="split",
            value=self.real.split,
            rule=f"has {len(self.real)} pictures, where density and coverage need {FEWEST}",
            remedy="Set a larger split, or a larger part of it",
        )
        require(
            self.settings.num_images >= 2,
            field="num_images",
            value=self.settings.num_images,
            rule="a distance between sets of pictures needs two in each",
            remedy="Set at least 2; some hundred are needed for narrow intervals",
        )

    @functools.cached_property
    def networks(self) -> Mapping[str, FeatureNetwork]:
        """The feature networks, the judge first."""
        return self._given or {name: load_features(name, self._weights(name)) for name in self.settings.features}

    def _weights(self, name: str) -> str | None:
        """Returns where a network's weights are: what has its name in the folder `weights`, or that itself."""
        weights = self.settings.weights
        if name == PACKAGED or weights is None:
            return None
        named = [path for path in (Path(weights) / name, Path(weights) / f"{name}.pth") if path.exists()]
        return str(named[0]) if named else weights

    @functools.cached_property
    def _features(self) -> dict[str, list[np.ndarray]]:
        """Of each network, the features of each split's pictures."""
        folder = Path(self.data.data_dir) / FOLDER
        return {
            name: [real_features(some, network, folder, self._progress) for some in self.pictures]
            for name, network in self.networks.items()
        }

    @functools.cached_property
    def _references(self) -> dict[str, RealFeatures]:
        return {name: RealFeatures(features[0]) for name, features in self._features.items()}

    @functools.cached_property
    def gallery(self) -> Gallery:
        """All real pictures, the split's first: where the judge looks for the nearest."""
        features = np.concatenate(next(iter(self._features.values())))
        kinds = set.intersection(*(set(some.labels) for some in self.pictures))
        labels = {kind: np.concatenate([some.labels[kind] for some in self.pictures]) for kind in sorted(kinds)}
        digests = np.concatenate([some.digests for some in self.pictures])
        return Gallery(features, labels, np.unique(digests, return_inverse=True)[1])

    @functools.cached_property
    def trained_on(self) -> np.ndarray:
        """(M,) bool, which pictures of the gallery are in the training split, or the same as one there."""
        trained, _ = splits_of(self.data)
        split = np.repeat([some.split == trained for some in self.pictures], [len(some) for some in self.pictures])
        return np.isin(self.gallery.numbers, self.gallery.numbers[split])

    def measure(self, samples: np.ndarray) -> Measurement:
        """Measures samples (seeds, N, H, W, 3) uint8 of `captions`."""
        distances, judged = {}, None
        for name, network in self.networks.items():
            features = np.stack([network(of_seed) for of_seed in samples])  # (S, N, D)
            distances |= {f"{what}/{name}": found for what, found in self._distances(name, features).items()}
            judged = judged or self._judged(features)
        assert judged is not None
        errors = self.squared_errors(samples)
        scores = judged.scores | distances | {"squared_error": mean_score(errors)}
        return Measurement(scores, judged.pictures | {"squared_error": errors})

    def picture(self, i: int) -> np.ndarray:
        """Returns picture i of the gallery, (H, W, 3) uint8."""
        for some in self.pictures:
            if i < len(some):
                return some.pixels([i])[0]
            i -= len(some)
        raise IndexError(i)

    def squared_errors(self, samples: np.ndarray) -> np.ndarray:
        """Returns (seeds, N) mean squared differences from the originals, of pixels in [-1, 1]."""
        return np.square((samples.astype(np.float32) - self.originals) / 127.5).mean((2, 3, 4))

    def _distances(self, name: str, features: np.ndarray) -> dict[str, Score]:
        """Compares sets of features (S, N, D) with the split's real ones.

        What real pictures score is measured on as many of another split's, of training pictures if there are any.
        """
        real, other = self._references[name], self._features[name][1 % len(self.pictures)]
        drawn = other[np.random.default_rng(self.settings.seed).permutation(len(other))[: features.shape[1]]]

        def measured(of: Callable[[np.ndarray, RealFeatures], float]) -> Score:
            return score(
                lambda seed, some: of(features[seed, some], real),
                *features.shape[:2],
                real=of(drawn, real),
                higher_is_better=of in (clipped_density, clipped_coverage),
            )

        found = {what: measured(of) for what, of in DISTANCES.items()}
        network = self.networks[name]
        if isinstance(network, ClipNetwork):
            texts = network.text(self.captions)
            own = clip_scores(self._features[name][0][self.chosen], texts)
            shown = np.stack([clip_scores(of_seed, texts) for of_seed in features])
            found["clip_score"] = mean_score(shown, real=float(own.mean()), higher_is_better=True)
            found["cmmd"] = measured(cmmd)
        return found

    def _judged(self, features: np.ndarray) -> Measurement:
        """Asks the nearest real pictures about samples with features (S, N, D) of the first network."""
        gallery, chosen = self.gallery, self.chosen
        own, centre, shape = gallery.features[chosen], gallery.centre, features.shape[:2]
        distances = np.stack([gallery.distances(of_seed) for of_seed in features])  # (S, N, M)
        scores, right = self._right(distances, gallery.distances(own))
        scores |= self._copies(distances)
        scores["diversity"] = score(
            lambda seed, some: spread(features[seed, some], centre),
            *shape,
            real=spread(own, centre),
            higher_is_better=None,
        )
        if len(features) > 1:
            varied = np.array([spread(features[:, i], centre) for i in range(features.shape[1])])
            scores["diversity/of_a_caption"] = mean_score(varied[None], higher_is_better=None)
        pictures = {
            "from_original": distances[:, np.arange(len(chosen)), chosen],
            "nearest_trained": np.where(self.trained_on, distances, np.inf).argmin(2),
        }
        return Measurement(scores, pictures | right)

    def _right(self, distances: np.ndarray, real: np.ndarray) -> tuple[dict[str, Score], dict[str, np.ndarray]]:
        """Judges concept and style, given distances (S, N, M) of samples and (N, M) of their originals.

        Returns:
            The shares that are right, and which are (S, N).
        """
        gallery, numbers = self.gallery, self.gallery.numbers[self.chosen]
        wanted = {kind: labels[self.chosen] for kind, labels in gallery.labels.items()}
        scores, nearness, right, best = {}, {}, {}, {}
        for kind in wanted:
            judged = [judge(of_seed, wanted, numbers, gallery, kind) for of_seed in distances]
            ceiling = judge(real, wanted, numbers, gallery, kind)
            if ceiling.right.any():  # else no two pictures share a label of this kind
                right[kind], best[kind] = np.stack([found.right for found in judged]), ceiling.right
                scores[kind] = _share(right[kind], best[kind], ceiling.chance)
                closer = np.stack([found.closer for found in judged])
                nearness[f"{kind}_closer"] = _share(closer, ceiling.closer, 0.5)
        if len(right) > 1:
            both, ceiling = (np.all(list(values.values()), axis=0) for values in (right, best))
            scores["concept_and_style"] = _share(
                both, ceiling, math.prod(found.chance or 0 for found in scores.values())
            )
        originals = np.stack([is_original(of_seed, numbers, gallery) for of_seed in distances])
        scores["original"] = _share(originals, np.ones(1), 1 / len(np.unique(gallery.numbers)))
        return scores | nearness, right

    def _copies(self, distances: np.ndarray) -> dict[str, Score]:
        """Returns how near samples are to training pictures, by how near unseen real pictures are, if there are any."""
        gallery, trained = self.gallery, self.trained_on
        if trained.all():
            return {}
        unseen = cosine_distances(gallery.features[~trained], gallery.features[trained], gallery.centre).min(1)
        nearest = distances[:, :, trained].min(2)  # (S, N)
        about = {"copies": (COPY_QUANTILE, False), "nearer_than_unseen": (0.5, None)}

        def measured(what: str, real: float, higher: bool | None) -> Score:
            def of(seed: int, some: np.ndarray) -> float:
                return getattr(copying(nearest[seed][some], unseen), what)

            return score(of, *nearest.shape, real=real, higher_is_better=higher)

        return {what: measured(what, *expected) for what, expected in about.items()}


def _share(right: np.ndarray, ceiling: np.ndarray, chance: float) -> Score:
    """Returns the score of a share (S, N) of pictures that are right, where real ones are (N,)."""
    return mean_score(right, real=float(ceiling.mean()), chance=chance, higher_is_better=True)


def as_dict(scores: Mapping[str, Score]) -> dict[str, dict]:
    """Returns scores as JSON can hold them."""
    return {name: dataclasses.asdict(found) for name, found in scores.items()}
