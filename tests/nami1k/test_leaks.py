"""Captions that are a prompt, or near one, are found by the strongest measure that tells."""

import numpy as np
import pytest

from nami_jax.nami1k import leaks
from nami_jax.nami1k.caption_files import Caption
from nami_jax.nami1k.leaks import LEAST_GRAMS, TextAudit, audit_texts, containment, in_vectors
from nami_jax.nami1k.overlap import Shared
from nami_jax.nami1k.prompt_set import Prompt, PromptSet

EN = "Seven brass hexagons set edge to edge on grey slate"
ZH = "灰色石板上七块黄铜六边形，边挨着边"
PROMPTS = PromptSet(
    (
        Prompt(id="a1", kind="short", topic="t", style="s", en=EN, zh=ZH),
        Prompt(id="a2", kind="short", topic="t", style="s", en="A goat on a roof", zh="屋顶上有只山羊"),
    ),
    "0" * 64,
)


def vectors(texts):
    """Stands for MiniLM: the first axis is hexagons, the second goats, the third all else."""
    rows = [("hexagon" in text or "six-sided" in text, "goat" in text, 0.5) for text in texts]
    matrix = np.array(rows, np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def found(*texts, vectors=None):
    audit = audit_texts(PROMPTS, [Caption(text, "c.txt", i) for i, text in enumerate(texts)], vectors)
    return [(leak.prompt, leak.language, leak.measure, leak.score) for leak in audit.leaks]


def test_the_strongest_measure_is_told():
    assert found(EN) == [("a1", "en", "exact", 1.0)]
    assert found(f" {ZH}\t") == [("a1", "zh", "exact", 1.0)]
    assert found(EN.upper() + "!!") == [("a1", "en", "normalised", 1.0)]
    assert found(ZH.replace("，", " ")) == [("a1", "zh", "normalised", 1.0)]
    assert found(f"Stock photo: {EN} by someone, large") == [("a1", "en", "n-grams", 1.0)]
    assert found("seven brass hexagons set edge to edge") == [("a1", "en", "n-grams", 1.0)]  # a part of it
    assert found("a slab of slate with seven six-sided tiles of brass", vectors=vectors)[0][:3] == (
        "a1",
        "en",
        "embedding",
    )
    assert found("a slab of slate with seven six-sided tiles of brass") == []
    assert found(EN, vectors=vectors) == [("a1", "en", "exact", 1.0)]


def test_what_says_too_little_is_no_leak():
    assert found("hexagons", "a hexagon of brass", "edge to edge on", vectors=vectors) == []
    assert found("a goat", vectors=vectors) == []
    assert found("a goat up there", vectors=vectors)[0][:3] == ("a2", "en", "embedding")  # four words of five


def test_containment_counts_from_both_sides():
    assert containment(Shared(0, count=4, indexed=8, text=40)) == 0.5
    assert containment(Shared(0, count=LEAST_GRAMS, indexed=80, text=4)) == 1
    assert containment(Shared(0, count=LEAST_GRAMS - 1, indexed=80, text=3)) == pytest.approx(3 / 80)
    assert containment(Shared(0, count=1, indexed=2, text=9)) == 0
    assert containment(Shared(0, count=1, indexed=1, text=9)) == 1


def test_chinese_captions_are_not_given_to_an_encoder_that_knows_none():
    def only_english(texts):
        assert all(text.isascii() for text in texts)
        return vectors(texts)

    assert [leak[1] for leak in found(ZH, EN, ZH, vectors=only_english)] == ["zh", "en", "zh"]


def test_what_is_kept_is_bounded_and_all_is_counted(monkeypatch):
    monkeypatch.setattr(leaks, "MOST_PAIRS", 2)
    audit = audit_texts(PROMPTS, (Caption(EN, "c.txt", i) for i in range(600)), None)
    assert (audit.captions, audit.counts["exact"], len(audit.leaks)) == (600, 600, 2)
    assert audit.prompts == {"a1"}


def test_the_report_puts_the_strongest_first():
    audit = audit_texts(PROMPTS, [Caption("x " + EN, "c", 1), Caption(EN, "c", 2), Caption(EN.upper(), "c", 3)], None)
    report = audit.to_dict()
    assert [leak["by"] for leak in report["leaks"]] == ["exact", "normalised", "n-grams"]
    assert report["pairs"] == {"exact": 1, "normalised": 1, "n-grams": 1, "embedding": 0}
    assert report["prompts"] == ["a1"]
    assert TextAudit().to_dict()["leaks"] == []


def test_vectors_are_asked_for_in_chunks(monkeypatch):
    monkeypatch.setattr(leaks, "CHUNK", 2)
    sizes = []

    def counted(texts):
        sizes.append(len(texts))
        return vectors(texts)

    assert in_vectors(["goat", "hexagon", "x"], counted).shape == (3, 3)
    assert sizes == [2, 1]
