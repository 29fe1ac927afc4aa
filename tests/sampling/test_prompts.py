from typing import Any

import numpy as np
import pytest

from nami_jax.config import PRESET_PROMPTS, SAMPLE_PRESETS, ConfigError, PresetPrompt, preset_prompt
from nami_jax.sampling.prompts import GivenStates, read_texts
from nami_jax.text.encoders import TextStates
from tests.support.sizes import MODEL

RELEASED = preset_prompt("released")


def read(prompts: Any = "red", negative=None, edit=None, preset=RELEASED, **given):
    return read_texts(prompts, negative, edit, GivenStates(**given), preset, MODEL)


def test_the_released_preset_brings_the_texts_of_the_release_s_demo():
    assert RELEASED == (
        ".extremely detailed,best quality,high quality,perfect composition",
        "(face asymmetry, eyes asymmetry, deformed eyes, open mouth)",
    )
    assert PRESET_PROMPTS.keys() <= SAMPLE_PRESETS.keys()
    assert preset_prompt(None) == preset_prompt("fast") == PresetPrompt("", "")


def test_a_preset_s_texts_are_added_unless_others_are_given():
    wanted = read(["red", "blue"], edit="grey")
    assert wanted.prompts == ["red" + RELEASED.suffix, "blue" + RELEASED.suffix]
    assert (wanted.negatives, wanted.edited) == ([RELEASED.negative], ["grey" + RELEASED.suffix])
    assert read(negative="blurry").negatives == ["blurry"]
    assert read(negative="").negatives == [""]
    assert read(preset=PresetPrompt()).prompts == ["red"]


def test_states_are_left_as_they_are_and_texts_are_encoded_in_one_call():
    calls = []

    def encode(texts, split):
        calls.append((list(texts), split))
        embeds = np.arange(len(texts), dtype=np.float32)[:, None, None] * np.ones((1, 3, MODEL.text_dim), np.float32)
        states = TextStates(embeds, embeds[:, 0, : MODEL.pooled_dim])
        return TextStates(*(x[:split] for x in states)), TextStates(*(x[split:] for x in states))

    texts = read(["a", "b"], negative=["c", "d"], edit="e", preset=PresetPrompt()).encoded(encode)
    assert calls == [(["a", "b", "c", "d", "e"], 2)]
    assert texts.edited is not None
    found = [states.pooled[:, 0].tolist() for states in (texts.prompts, texts.negatives, texts.edited)]
    assert found == [[0, 1], [2, 3], [4]]
    given = np.full((2, 5, MODEL.text_dim), 7.0), np.full((2, MODEL.pooled_dim), 7.0)
    texts = read(None, embeds=given[0], pooled=given[1]).encoded(encode)
    assert calls[1:] == [([""], 0)]  # a preset's texts are not for states
    assert (texts.prompts.pooled == 7).all()
    assert len(texts.negatives.pooled) == 1
    assert texts.edited is None


def test_nothing_to_draw_is_refused():
    with pytest.raises(ConfigError, match="prompts = None: must be a text or a list of texts"):
        read(None)
