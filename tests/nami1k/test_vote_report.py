"""What a report says of votes made by hand."""

import dataclasses
import json

import numpy as np
import pytest

from nami_jax.config import ConfigError
from nami_jax.nami1k.prompt_set import read_prompts
from nami_jax.nami1k.questions import AXES
from nami_jax.nami1k.vote_report import make_report
from tests.support.arena import write_prompts
from tests.support.ballots import even_votes, made_ballots

EQUAL = dict.fromkeys(AXES[:4], 1.0)


@pytest.fixture
def prompts(tmp_path):
    return read_prompts(write_prompts(tmp_path / "prompts.jsonl", 40))


def report_on(ballots, prompts, weights=EQUAL):
    return make_report(ballots, prompts, weights, draws=50)


def checks(rater: int, answer: str) -> list[tuple]:
    return [(rater, 0, 0, 0, answer)] * 4


def test_all_parts_of_it_are_there_and_are_json(prompts):
    votes = [*even_votes(4, 40, 0.6), (0, 1, 0, 1, "both_bad"), (0, 2, 1, 0, "tie")]
    report = report_on(made_ballots(votes), prompts, {"relevance": 3.0, "overall": 1.0})
    assert json.loads(json.dumps(report)) == report
    assert report["votes"] == {
        "all": 162, "counted": 162, "by_kind": {"pair": 162}, "prompts_seen": 40, "prompts": 40,
        "both_bad": pytest.approx(1 / 162),
    }  # fmt: skip
    assert report["weights"] == {"relevance": 0.75, "coherence": 0, "aesthetics": 0, "realism": 0, "overall": 0.25}
    assert set(report["scores"]) == {*AXES, "weighted"}
    assert set(report["kinds"]) == {"short", "typed", "long"}
    assert set(report["tags"]) == {"count"}
    assert report["tags"]["count"]["votes"] == 81  # prompts of odd number, and one vote more
    wins, ties, bad = (np.array(report[name]) for name in ("wins", "ties", "both_bad"))
    assert wins.sum() == 160
    assert ties.tolist() == bad.tolist() == [[0, 1], [1, 0]]
    assert report["simulated"] == []


def test_the_better_model_wins_and_is_named(prompts):
    votes = [(r, p, 1, 0, "left" if (r + p) % 5 else "right") for r in range(4) for p in range(40)]
    report = report_on(made_ballots(votes, ("worse", "better")), prompts)
    assert [row["value"] for row in report["scores"]["overall"]] == pytest.approx([20, 80], abs=0.3)
    assert report["flip"] == {"first": "better", "rival": "worse", "votes": 96, "of": 160}
    assert report["differences"][0]["told_apart"]
    assert report["power"]["first"] == "better"


def test_raters_who_fail_checks_are_set_aside_and_said(prompts):
    careful, careless = even_votes(3, 40, 0.5), [(3, p, 1, 0, "left") for p in range(40)]
    votes = [*careful, *careless, *checks(0, "right"), *checks(3, "left")]
    kinds = [("pair", -1, -1)] * 160 + [("noised", 0, -1)] * 8
    report = report_on(made_ballots(votes, kinds=kinds), prompts)
    assert [record["name"] for record in report["raters"] if record["set_aside"]] == ["rater-03"]
    assert report["votes"]["counted"] == 120
    assert report["votes"]["all"] == 168


def test_simulated_votes_are_never_mixed_with_those_of_persons(prompts):
    ballots = made_ballots(even_votes(4, 40, 0.5), simulated="a distance of features")
    assert report_on(ballots, prompts)["simulated"] == ["a distance of features"]
    mixed = dataclasses.replace(ballots, simulated=("a distance of features", None, None, "a distance of features"))
    report = report_on(mixed, prompts)
    assert report["simulated"] == []
    assert [record["name"] for record in report["raters"]] == ["rater-01", "rater-02"]
    assert report["votes"]["all"] == 80


def test_too_few_votes_are_said(prompts):
    votes = [(0, p, 0, 1, "left") for p in range(9)]
    with pytest.raises(ConfigError, match=r"9 votes count, of 9, 0 raters being set aside\. A report needs 10"):
        report_on(made_ballots(votes), prompts)
    careless = [*votes, (0, 9, 0, 1, "left"), *checks(0, "left")]
    kinds = [("pair", -1, -1)] * 10 + [("noised", 0, -1)] * 4
    with pytest.raises(ConfigError, match="0 votes count, of 14, 1 raters"):
        report_on(made_ballots(careless, kinds=kinds), prompts)
