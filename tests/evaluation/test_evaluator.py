import dataclasses

import numpy as np
import pytest

from nami_jax.config import ConfigError, EvaluationConfig
from nami_jax.evaluation.evaluator import Evaluation


@pytest.fixture
def evaluation(styled, cells) -> Evaluation:
    return Evaluation(styled, EvaluationConfig(seeds=2), networks={"cells": cells})


def test_captions_are_one_of_each_picture_chosen_by_seed(evaluation, styled, cells):
    assert len(evaluation.captions) == len(evaluation.originals) == 8
    for caption, i in zip(evaluation.captions, evaluation.chosen, strict=True):
        assert caption in evaluation.real.captions[i]
    some = EvaluationConfig(num_images=5, seed=1)
    first, again = (Evaluation(styled, some, networks={"cells": cells}) for _ in range(2))
    assert first.captions == again.captions
    assert len(first.captions) == 5


def test_perfect_samples_are_right_as_often_as_real_pictures_are(evaluation):
    scores = evaluation.measure(np.stack([evaluation.originals] * 2)).scores
    assert scores["squared_error"].value == 0
    assert scores["original"].value == 1
    for kind in ("concept", "style", "concept_and_style"):
        assert scores[kind].value == scores[kind].real > 2 * scores[kind].chance
    for kind in ("concept_closer", "style_closer"):
        assert scores[kind].value == scores[kind].real > 0.75
    assert scores["copies"].value <= 0.25  # just as unseen real pictures, which they are
    assert scores["nearer_than_unseen"].value == 0.5
    assert scores["diversity/of_a_caption"].value == pytest.approx(0, abs=1e-6)
    assert scores["diversity"].value == pytest.approx(scores["diversity"].real)
    assert scores["frechet/cells"].value == pytest.approx(0, abs=1e-6)
    assert scores["clipped_coverage/cells"].value > 0.9


def test_samples_of_another_caption_are_wrong_and_training_pictures_copies(evaluation):
    swapped = np.roll(evaluation.originals, 2, axis=0)  # of the same style, or nearly always
    measured = evaluation.measure(np.stack([swapped] * 2))
    assert measured.scores["concept"].value == measured.scores["original"].value == 0
    assert measured.scores["squared_error"].value > 0.1
    trained = np.stack([evaluation.picture(int(i)) for i in measured.pictures["nearest_trained"][0]])
    copies = evaluation.measure(np.stack([trained] * 2)).scores
    assert copies["copies"].value == copies["nearer_than_unseen"].value == 1
    assert copies["copies"].real == 0.05


def test_of_the_training_split_the_held_out_one_is_unseen(styled, cells):
    evaluation = Evaluation(styled, EvaluationConfig(split="train", seeds=2), networks={"cells": cells})
    assert evaluation.trained_on.sum() == len(evaluation.real) == 16
    assert evaluation.measure(np.stack([evaluation.originals] * 2)).scores["copies"].value == 1


def test_a_part_of_the_training_split_counts_as_trained_on(styled, cells):
    settings = EvaluationConfig(split="train[:50%]", seeds=1)
    evaluation = Evaluation(styled, settings, networks={"cells": cells})
    assert [len(some) for some in evaluation.pictures] == [8, 16, 8]
    assert evaluation.trained_on.tolist() == [True] * 24 + [False] * 8
    scores = evaluation.measure(evaluation.originals[None]).scores
    assert scores["original"].value == 1  # though it is in the gallery twice
    assert scores["concept"].value == scores["concept"].real


def test_without_labels_nothing_is_judged_by_them(styled, cells):
    settings = EvaluationConfig(seeds=1, concept_key="nothing", style_key="nothing")
    scores = (
        Evaluation(styled, settings, networks={"cells": cells}).measure(np.zeros((1, 8, 16, 16, 3), np.uint8)).scores
    )
    assert {"original", "copies", "kid/cells"} <= scores.keys()
    assert not {"concept", "style", "concept_and_style"} & scores.keys()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"split": "held_uot"}, r"split = 'held_uot': no such split of styled_cards. Did you mean 'held_out'"),
        ({"split": "zzz"}, r"split = 'zzz'.*Known: held_out, train"),
        ({"split": "train[:3]"}, r"split = 'train\[:3\]': has 3 pictures, where density and coverage need 6"),
        ({"num_images": 1}, r"num_images = 1: .* needs two"),
        ({"features": ["inception"]}, r"features\[0\] = 'inception': is not a valid choice"),
        ({"seeds": 0}, "seeds = 0"),
    ],
)
def test_what_cannot_be_measured_is_one_line(styled, cells, settings, named):
    with pytest.raises(ConfigError, match=named) as error:
        Evaluation(styled, EvaluationConfig.from_dict(settings), networks={"cells": cells})
    assert "\n" not in str(error.value)


def test_an_empty_split_is_named(styled, cells):
    with pytest.raises(ConfigError, match=r"split = 'train\[:0\]': contains no images"):
        Evaluation(styled, EvaluationConfig(split="train[:0]"), networks={"cells": cells})
    other = dataclasses.replace(styled, name="styled_crads")
    with pytest.raises(ConfigError, match="Did you mean 'styled_cards'"):
        Evaluation(other, EvaluationConfig(), networks={"cells": cells})
