import numpy as np
import pytest

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

# Two concepts in two styles: the first two features tell the concept, the last two the style.
CONCEPTS, STYLES = np.array(["cat", "cat", "dog", "dog"]), np.array(["flat", "line", "flat", "line"])
FEATURES = np.array([[2, 0, 1, 0], [2, 0, 0, 1], [0, 2, 1, 0], [0, 2, 0, 1]], np.float32)
GALLERY = Gallery(FEATURES, {"concept": CONCEPTS, "style": STYLES}, np.arange(4))
WANTED = {"concept": np.array(["cat", "cat"]), "style": np.array(["flat", "flat"])}
OWN = np.array([0, 0])


def test_cosine_distance_is_seen_from_the_centre():
    x = np.array([[3.0, 1.0]]), np.array([[1.0, 3.0], [2.0, 1.0], [0.0, 1.0]])
    np.testing.assert_allclose(cosine_distances(*x, np.array([1.0, 1.0])), [[1, 0, 2]], atol=1e-7)


def test_concept_is_judged_by_other_styles_and_style_by_other_concepts():
    samples = np.array([[2, 0, 1, 0], [0, 2, 1, 0]], np.float32)  # a flat cat, and a flat dog where a cat was wanted
    distances = GALLERY.distances(samples)
    concept, style = (judge(distances, WANTED, OWN, GALLERY, kind) for kind in ("concept", "style"))
    assert concept.right.tolist() == [True, False]
    assert style.right.tolist() == [True, True]
    assert concept.chance == style.chance == 0.5


def test_closeness_is_the_share_of_pairs_in_which_the_right_picture_is_nearer():
    concepts = np.array(["cat", "dog", "owl", "cat", "dog", "dog"])
    gallery = Gallery(np.zeros((6, 2)), {"concept": concepts}, np.arange(6))
    distances = np.array([[9.0, 2, 8, 3, 4, 1], [9, 2, 8, 3, 4, 1]])
    found = judge(distances, {"concept": np.array(["cat", "dog"])}, np.array([0, 1]), gallery, "concept")
    # Cats without number 0: 3; of dogs and owls 2, 8, 4, 1 two are farther. Dogs without number 1: 4, 1, of 9, 8, 3.
    assert found.closer.tolist() == pytest.approx([2 / 4, 5 / 6])
    assert found.right.tolist() == [False, True]


def test_where_only_one_label_is_known_the_picture_itself_is_not_asked():
    gallery = Gallery(FEATURES, {"concept": np.array(["cat", "owl", "dog", "cat"])}, np.arange(4))
    found = judge(gallery.distances(FEATURES[:1]), {"concept": np.array(["cat"])}, np.array([0]), gallery, "concept")
    assert not found.right[0]  # its neighbour is the owl
    assert found.chance == pytest.approx(1 / 3)


def test_a_sample_without_anyone_to_ask_is_not_right():
    gallery = Gallery(FEATURES[:1], {"concept": CONCEPTS[:1], "style": STYLES[:1]}, np.arange(1))
    wanted = {kind: labels[:1] for kind, labels in WANTED.items()}
    found = judge(np.zeros((1, 1)), wanted, OWN[:1], gallery, "concept")
    assert not found.right[0]
    assert found.closer[0] == 0.5


def test_the_original_is_found_also_where_it_is_in_two_splits():
    gallery = Gallery(FEATURES[[0, 1, 0]], {}, np.array([0, 1, 0]))
    found = is_original(gallery.distances(FEATURES[[0, 1, 0]]), np.array([0, 0, 0]), gallery)
    assert found.tolist() == [True, False, True]


def test_unseen_pictures_copy_by_chance_and_copies_always():
    rng = np.random.default_rng(0)
    unseen, like_them, copies = rng.random(2000) + 0.1, rng.random(2000) + 0.1, np.zeros(2000)
    chance = copying(like_them, unseen)
    assert chance.nearer_than_unseen == pytest.approx(0.5, abs=0.03)
    assert chance.copies == pytest.approx(COPY_QUANTILE, abs=0.02)
    assert copying(copies, unseen) == (1, 1)
    assert copying(unseen, unseen).nearer_than_unseen == pytest.approx(0.5)


def test_nearer_counts_pairs_and_a_tie_half():
    near, unseen = np.array([1.0, 2, 2, 5]), np.array([2.0, 3, 3])
    assert copying(near, unseen).nearer_than_unseen == pytest.approx((3 + 2.5 + 2.5 + 0) / 12)
    assert copying(near[:1], near[:1]).nearer_than_unseen == 0.5
    drawn = np.random.default_rng(0).integers(0, 9, (2, 40)) / 4
    pairs = [(a < b) + (a == b) / 2 for a in drawn[0] for b in drawn[1]]
    assert copying(*drawn).nearer_than_unseen == pytest.approx(np.mean(pairs))


def test_spread_is_the_mean_over_different_pairs():
    x = np.array([[1.0, 0], [0, 1], [-1, 0]])
    assert spread(x, np.zeros(2)) == pytest.approx((1 + 1 + 2) / 3)


def test_clip_score_is_the_cosine_with_the_own_caption_and_never_below_zero():
    pictures, texts = np.array([[2.0, 0], [1, 0], [1, 1]]), np.array([[3.0, 0], [-1, 0], [0, 2]])
    np.testing.assert_allclose(clip_scores(pictures, texts), [2.5, 0, 2.5 / np.sqrt(2)], atol=1e-7)
