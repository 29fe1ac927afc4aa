"""What word sequences two texts share."""

import pytest

from nami_jax.nami1k.overlap import NgramIndex, Shared, is_chinese, near_duplicates, ngrams


def test_ngrams_are_three_words_or_three_chinese_characters():
    assert ngrams("A red, RED door!") == {"a red red", "red red door"}
    assert ngrams("two words") == {"two words"}
    assert ngrams("红灯，停下来") == {"红灯停", "灯停下", "停下来"}
    assert ngrams("...") == frozenset()


def test_a_text_is_chinese_by_its_letters():
    assert is_chinese("写着“OPEN”的红色招牌")
    assert not is_chinese("a sign that reads “茶” above the door")
    assert not is_chinese("")


def test_an_index_tells_exactly_what_is_shared():
    index = NgramIndex(["a cat on a red mat", "two dogs under the old bridge", "红灯，停下来"])
    assert list(index.shared("see a cat on a blue mat")) == [Shared(number=0, count=2, indexed=4, text=5)]
    assert [found.number for found in index.shared("红灯停")] == [2]
    assert not list(index.shared("nothing alike"))
    assert not list(index.shared(""))


def test_near_duplicates_share_half_of_their_ngrams():
    texts = [
        "seven green bottles standing on a garden wall in the rain",
        "a lighthouse keeper reads letters to his dog",
        "seven green bottles standing on a garden wall in the sun",
        "seven green bottles",
        "A LIGHTHOUSE keeper reads letters to his dog.",
    ]
    assert near_duplicates(texts) == [(0, 2), (1, 4)]


@pytest.mark.parametrize("texts", [[], ["one"]])
def test_few_texts_have_no_duplicates(texts):
    assert near_duplicates(texts) == []
