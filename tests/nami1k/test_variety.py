"""Numbers on how varied texts are: worked by hand on small sets."""

import numpy as np
import pytest

from nami_jax.nami1k import variety
from nami_jax.nami1k.variety import compression, equal_parts, measure, type_token


def test_type_token_is_over_windows_of_one_length(monkeypatch):
    monkeypatch.setattr(variety, "WINDOW", 4)
    assert type_token(["a b a b", "c c c c", "d"]) == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert type_token(["a A b"]) == pytest.approx(2 / 3)


def test_repetition_compresses():
    words = np.random.default_rng(0).permutation(10**5)[:2000]
    various = [f"word {number}" for number in words]
    assert compression(["the same phrase again"] * 500, 5000) > 20 > 4 > compression(various, 5000)
    assert compression(various, 100) < compression(various, 5000)


def test_sets_are_compared_on_parts_of_one_size():
    first, second = equal_parts([[str(i) for i in range(50)], [f"x{i}" for i in range(20)]])
    assert len(first) == len(second) == len(set(first)) == 20
    assert set(second) == {f"x{i}" for i in range(20)}


def test_nearness_is_that_of_the_nearest_other_text():
    texts = ["one", "one two", "three four five six seven"]
    rows = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    measured = measure(texts, 100, lambda some: rows[[texts.index(text) for text in some]])
    np.testing.assert_allclose(measured.nearest, [0.8, 0.8, 0.6], rtol=1e-6)
    assert measured.alike == pytest.approx(2 / 3)
    assert measured.words == (1, 1, 2, 3, 5)
    assert measured.to_dict()["median_nearest"] == pytest.approx(0.8)
    assert measure(texts, 100, None).alike is None


def test_twins_are_counted_once_each():
    twin = "a long row of very small houses by the sea"
    assert measure([twin, twin + "!", "something else entirely here"], 100, None).same_words == pytest.approx(2 / 3)
