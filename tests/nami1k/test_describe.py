"""What describe tells of a set, and of the one beside it."""

from nami_jax.nami1k import describe
from nami_jax.nami1k.prompt_set import read_prompts
from nami_jax.nami1k.variety import measure

PROMPTS = read_prompts()


def test_the_make_up_counts_every_prompt_once_and_every_tag():
    made = describe.make_up(PROMPTS.prompts)
    assert made["kinds"] == {"short": 360, "typed": 320, "long": 320}
    assert set(made["topics"].values()) == {50}
    assert sum(made["styles"].values()) == 1000
    assert made["tags"]["none"] == sum(not prompt.tags for prompt in PROMPTS.prompts)
    assert sum(made["tags"].values()) > 3000


def test_the_report_sets_two_sets_side_by_side_and_names_what_is_owed():
    sets = {name: measure([name, f"{name} again"], 10, None) for name in ("ours", "theirs")}
    made = describe.make_up(PROMPTS.prompts[:18])
    text = describe.report(PROMPTS, made, ["topic: 3 are due"], sets, 10)
    assert "design: 1 are owed\n  topic: 3 are due" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["ours", "theirs"] in rows
    assert ["texts", "2", "2"] in rows
    assert "not measured" in text
