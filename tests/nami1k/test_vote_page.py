"""The page of a report: whole in one file, safe with any name, and plain about what votes are."""

import re

import pytest

from nami_jax.nami1k.prompt_set import read_prompts
from nami_jax.nami1k.vote_page import make_page
from nami_jax.nami1k.vote_report import make_report
from tests.support.arena import write_prompts
from tests.support.ballots import even_votes, made_ballots

HOSTILE = "<script>alert(1)</script>&$x^{$"


@pytest.fixture
def page(tmp_path):
    prompts = read_prompts(write_prompts(tmp_path / "prompts.jsonl", 40))

    def make(models=("A", HOSTILE), **options):
        ballots = made_ballots(even_votes(4, 40, 0.5), models, **options)
        return make_page(make_report(ballots, prompts, {"overall": 1.0}, draws=50))

    return make


def test_names_are_shown_as_they_are_and_do_nothing(page):
    text = page()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;$x^{$" in text


def test_it_asks_for_no_other_file(page):
    text = page()
    links = re.findall(r"""(?:href|src)=["']?([^"'\s>]+)|url\(([^)]+)\)""", text)
    assert all(target.startswith(("#", "data:image/png")) for pair in links for target in pair if target)
    assert "@import" not in text


def test_simulated_votes_carry_a_warning(page):
    assert "simulated" not in page()
    text = page(simulated="a distance of <features>")
    assert "These votes are simulated. They say nothing about what people prefer." in text
    assert "a distance of &lt;features&gt;" in text


def test_one_rater_is_no_people(page, tmp_path):
    assert "votes by 4 raters count" in page()
    assert "say nothing of other raters" not in page()
    votes = [(0, prompt, 0, 1, "left") for prompt in range(20)]
    prompts = read_prompts(tmp_path / "prompts.jsonl")
    text = make_page(make_report(made_ballots(votes), prompts, {"overall": 1.0}, draws=50))
    assert "votes by 1 rater count" in text
    assert "say nothing of other raters" in text


def test_the_caveat_and_who_is_set_aside_are_said(page):
    text = page()
    assert "Its weights are not known to us" in text
    assert "None is set aside." in text
