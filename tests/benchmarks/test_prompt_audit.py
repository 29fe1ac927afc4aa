"""The audit's proof: what is planted, how much of it is found, and what is found in vain."""

import collections
import json

import pytest

from benchmarks.prompt_audit import CHANGES, TEXTS, calibrate, planted, prove, prove_pictures, rate, show, synthetic
from nami_jax.files.row_pipe import RowProcess
from nami_jax.nami1k.audit import FEATURES, SENTENCES
from nami_jax.nami1k.leaks import ALIKE
from nami_jax.nami1k.prompt_set import plain, read_prompts

PROMPTS = read_prompts()


def test_200_leaks_of_four_kinds_are_planted_each_of_another_prompt():
    leaks = planted(PROMPTS.prompts)
    assert {kind: len(some) for kind, some in leaks.items()} == dict.fromkeys(
        ("copied", "reordered", "paraphrased", "translated_back"), 50
    )
    ids = [prompt for some in leaks.values() for prompt, _ in some]
    texts = {prompt.id: {plain(text) for text in prompt.texts().values()} for prompt in PROMPTS.prompts}
    assert len(set(ids)) == 200
    assert not [prompt for prompt, text in leaks["reordered"] + leaks["paraphrased"] if plain(text) in texts[prompt]]


def test_paraphrases_for_the_threshold_are_of_no_prompt():
    pairs = [json.loads(line) for line in (TEXTS / "paraphrases.jsonl").read_text().splitlines()]
    known = {plain(prompt.en) for prompt in PROMPTS.prompts}
    assert len(pairs) == 60
    assert not known & {plain(text) for pair in pairs for text in pair}


def test_words_alone_find_what_is_copied_and_most_of_what_is_reordered_and_nothing_in_vain():
    rows, _ = prove(PROMPTS, None)
    found = {row["kind"]: row["found"] for row in rows}
    assert found["copied"] == 50
    assert found["reordered"] >= 45
    assert sum(row["false_pairs"] for row in rows) == 0
    assert rate(PROMPTS, None, 500) > 100
    assert len({caption.text for caption in synthetic(100)}) == 100
    assert "copied" in show({"proof": rows, "calibration": collections.defaultdict(int)})


def test_changed_copies_of_pictures_are_found_by_their_hashes():
    found = {row["change"]: row["found"] for row in prove_pictures(None)}
    assert found.keys() == CHANGES.keys()
    assert found["the same"] == 60
    assert min(found[change] for change in ("JPEG of quality 40", "half the size", "mirrored")) >= 50


@pytest.mark.slow
def test_the_audit_finds_nine_in_ten_of_every_kind_at_the_threshold_that_follows_from_the_prompts():
    with RowProcess(SENTENCES) as vectors:
        rows, _ = prove(PROMPTS, vectors)
        calibration = calibrate(PROMPTS.prompts, vectors)
    assert calibration["threshold"] == ALIKE
    assert min(row["found"] for row in rows if row["found"] is not None) >= 45
    clean = {row["kind"]: row["false_pairs"] / row["captions"] for row in rows if row["found"] is None}
    assert clean["other prompts"] < 0.02
    assert clean["emoji captions"] < 0.001


@pytest.mark.slow
def test_features_find_more_changed_copies_than_hashes():
    with RowProcess(FEATURES) as features:
        both = prove_pictures(features)
    assert sum(row["found"] for row in both) > sum(row["found"] for row in prove_pictures(None))
