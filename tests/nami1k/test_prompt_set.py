"""Prompt sets are read whole, or refused with the line and what is wrong in it."""

import json

import pytest

from nami_jax.config import ConfigError
from nami_jax.nami1k.prompt_set import SAFE_ID, plain, read_prompts

GOOD = {
    "id": "a1",
    "kind": "short",
    "topic": "food",
    "style": "unspecified",
    "en": "Two figs on a plate",
    "zh": "盘子里有两颗无花果",
    "tags": {"count": {"en": ["Two figs"], "zh": ["两颗无花果"]}},
}


def write(path, *prompts):
    path.write_text("".join(json.dumps(GOOD | prompt) + "\n" for prompt in prompts))
    return path


def test_the_packaged_set_has_a_thousand_prompts_in_two_languages():
    packaged = read_prompts()
    assert len(packaged.prompts) == 1000
    assert all(prompt.zh for prompt in packaged.prompts)
    assert all(SAFE_ID.fullmatch(prompt.id) for prompt in packaged.prompts)


def test_a_file_gives_its_prompts_in_order_and_changes_its_version_with_any_byte(tmp_path):
    path = write(tmp_path / "p.jsonl", {}, {"id": "a2", "en": "A fig", "zh": None, "tags": {}})
    first = read_prompts(path)
    assert [(p.id, p.en, p.zh) for p in first.prompts] == [("a1", GOOD["en"], GOOD["zh"]), ("a2", "A fig", None)]
    assert first.prompts[0].tags == GOOD["tags"]
    path.write_text(path.read_text() + "\n")
    second = read_prompts(path)
    assert second.prompts == first.prompts
    assert second.version != first.version


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ([{}, {"en": "other", "zh": "另一个", "tags": {}}], "line 2 is a twin of line 1"),
        (
            [{}, {"id": "a2", "en": "two FIGS on a plate!", "zh": "另一个", "tags": {}}],
            "en = 'two FIGS on a plate!': .* twin",
        ),
        ([{}, {"id": "a2", "en": "other", "tags": {"count": {"en": ["other"], "zh": ["两颗"]}}}], "zh = .* twin"),
        ([{"colour": "red"}], "line 1: colour: no such config field"),
        ([{"id": "../up"}], "id = '../up': must be 1 to 64 of a-z"),
        ([{"id": "A1"}], "id = 'A1'"),
        ([{"en": ""}], "en = ''"),
        ([{"en": "...", "tags": {}}], "en = '...': has neither letter nor digit"),
        ([{"zh": "。"}], "zh = '。'"),
        ([{"kind": "medium"}], "kind = 'medium': is not a valid choice"),
        ([{"tags": {"size": {"en": ["Two"], "zh": ["两"]}}}], "tags = "),
        (
            [{"tags": {"count": {"en": ["Three"], "zh": ["两"]}}}],
            r"tags.count.en = \['Three'\]: must be words that stand",
        ),
        ([{"tags": {"count": {"en": ["Two"]}}}], r"tags.count.zh = \[\]"),
        ([], "holds no prompt"),
    ],
)
def test_a_file_that_cannot_be_a_prompt_set_is_refused_by_line(tmp_path, prompts, says):
    with pytest.raises(ConfigError, match=says):
        read_prompts(write(tmp_path / "p.jsonl", *prompts))


def test_missing_fields_damaged_lines_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "p.jsonl"
    with pytest.raises(ConfigError, match=r"p\.jsonl"):
        read_prompts(path)
    path.write_text('{"id": "a1"}\n')
    with pytest.raises(ConfigError, match=r"line 1: .*topic.* are missing"):
        read_prompts(path)
    path.write_text(json.dumps(GOOD) + "\n{broken\n")
    with pytest.raises(ConfigError, match="line 2 is damaged"):
        read_prompts(path)


def test_plain_text_is_what_copies_share():
    assert plain("  “Don’t  STOP”, ｆｕｌｌ—width! ") == plain("don't stop full width") == "dont stop full width"
    assert plain("红灯，停。") == plain("红灯 停") == "红灯 停"
