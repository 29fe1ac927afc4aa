"""The prompts fulfil the table that they were written to."""

import dataclasses

import pytest

from nami_jax.nami1k.design import read_design, shortfalls
from nami_jax.nami1k.prompt_set import read_prompts

DESIGN, PROMPTS = read_design(), read_prompts().prompts


def test_the_packaged_prompts_fulfil_the_packaged_design():
    assert shortfalls(DESIGN, PROMPTS) == []


def test_the_design_is_the_published_make_up():
    totals = {kind: cell.prompts * len(DESIGN.topics) for kind, cell in DESIGN.kinds.items()}
    assert totals == {"short": 360, "typed": 320, "long": 320}
    assert DESIGN.kinds["short"].words[1] == 12
    assert DESIGN.kinds["long"].words == (60, 120)


@pytest.mark.parametrize(
    ("number", "changes", "owed"),
    [
        (0, {"kind": "long"}, ["words, long prompts have 60 to 120", "everyday objects, short: 17 prompts, not 18"]),
        (0, {"topic": "robots"}, ["topics: robots stand in one", "everyday objects, short: 17 prompts"]),
        (0, {"style": "engraving"}, ["style engraving: 1 prompts, 0 to 0 are due"]),
        (0, {"en": PROMPTS[1].en, "tags": {}}, ["begins with the same three words as n0001"]),
        (3, {"tags": {"text": {"en": ["KNOCK"], "zh": ["KNOCK LOUDLY"]}}}, ["n0004: the lettering asked for differs"]),
        (35, {"en": "word " * 121, "tags": {}}, ["n0036: 121 words, long prompts have 60 to 120"]),
    ],
)
def test_a_change_that_breaks_the_design_is_told(number, changes, owed):
    prompts = list(PROMPTS)
    prompts[number] = dataclasses.replace(prompts[number], **changes)
    lines = "\n".join(shortfalls(DESIGN, prompts))
    assert [line for line in owed if line not in lines] == []


def test_each_floor_of_a_tag_is_looked_at():
    without = [dataclasses.replace(prompt, tags={}) for prompt in PROMPTS]
    lines = [line for line in shortfalls(DESIGN, without) if "are due" in line]
    cells = sum(len(cell.tags) for cell in DESIGN.kinds.values()) + len(DESIGN.tags_of_a_topic)
    assert len(lines) == cells * len(DESIGN.topics)
