"""A report on votes as one page that asks for no other file."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nami_jax.nami1k.questions import AXES
from nami_jax.nami1k.vote_plots import draw_scores, draw_wins

STYLE = """
:root { color-scheme: light dark; --line: #8886; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 58rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
table { border-collapse: collapse; } td, th { padding: .15rem 1rem .15rem 0; text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; } tr { border-bottom: 1px solid var(--line); }
.wide { overflow-x: auto; } svg { min-width: 32rem; max-width: 100%; height: auto; }
.note { opacity: .8; }
.warning { border: 2px solid #c0503f; border-radius: .4rem; padding: .6rem 1rem; font-weight: 600; }
"""
e = html.escape


def make_page(report: Mapping[str, Any]) -> str:
    """Returns the page as HTML."""
    best = max(report["scores"]["overall"], key=lambda row: row["value"])
    title = f"Votes on {', '.join(report['models'])}"
    return "\n".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8>",
            "<meta name=viewport content='width=device-width, initial-scale=1'>",
            f"<title>{e(title)}</title><style>{STYLE}</style><h1>{e(title)}</h1>",
            *_warning(report["simulated"]),
            *_in_short(report, best),
            "<h2>Scores</h2><p>How often, in a hundred, a model would be preferred to another one drawn at random, a "
            "tie being half. Lines hold 95 %, over prompts and raters alike.</p>",
            _plot(draw_scores({axis: report["scores"][axis] for axis in (*AXES[::-1], "weighted")})),
            *_score_table(report),
            f"<p class=note>{e(report['caveat'])} Weights here: {e(_weights(report['weights']))}.</p>",
            "<h2>Each against each</h2><p>Overall: how often the row's model was preferred to the column's; ties and "
            "“both bad” are half.</p>",
            _plot(draw_wins(report)),
            *_differences(report["differences"]),
            *_parts(report),
            *_trust(report),
            *_raters(report["raters"]),
        ]
    )


def _plot(svg: str) -> str:
    return f"<div class=wide>{svg}</div>"  # on a phone it is moved sideways, and can be read


def _warning(simulated: Sequence[str]) -> Iterator[str]:
    if simulated:
        text = "These votes are simulated. They say nothing about what people prefer. What voted: "
        yield f"<p class=warning>{e(text + '; '.join(simulated))}.</p>"


def _in_short(report: Mapping[str, Any], best: Mapping[str, Any]) -> Iterator[str]:
    votes, flip, power = report["votes"], report["flip"], report["power"]
    apart = [row for row in report["differences"] if row["told_apart"]]
    raters = sum(record["votes"] > 0 and not record["set_aside"] for record in report["raters"])
    few = " All intervals are over prompts alone, and say nothing of other raters." if raters == 1 else ""
    yield (
        f"<p>{votes['counted']} votes by {raters} rater{'s' if raters > 1 else ''} count, on {votes['prompts_seen']} "
        f"of {votes['prompts']} prompts. "
        f"<b>{e(best['model'])}</b> is first with {_points(best)} points. "
        f"{len(apart)} of {len(report['differences'])} pairs of models are told apart. "
        f"Without {flip['votes']} of the votes ({100 * flip['votes'] / flip['of']:.1f} %), chosen against "
        f"{e(flip['first'])}, {e(flip['rival'])} would be as good or better. Between {e(power['first'])} and "
        f"{e(power['second'])} an arena like this tells {power['smallest']:.1f} points; "
        f"{power['goal']:g} points would take about {power['votes']:,} votes, with as many more prompts and "
        f"raters.{few}</p>"
    )


def _score_table(report: Mapping[str, Any]) -> Iterator[str]:
    yield "<div class=wide><table><tr><th>"
    yield from (f"<th>{e(model)}" for model in report["models"])
    for axis, rows in report["scores"].items():
        yield f"<tr><td>{axis}"
        for row in rows:
            other = f" title='by Newman: {row['newman']:.1f}'" if row.get("newman") is not None else ""
            yield f"<td{other}>{_points(row)}"
    yield "</table></div>"


def _points(row: Mapping[str, Any]) -> str:
    return f"{row['value']:.1f} ({row['low']:.1f} to {row['high']:.1f})"


def _weights(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{axis} {weight:.2g}" for axis, weight in weights.items() if weight)


def _differences(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "<div class=wide><table><tr><th>difference, overall<th>points<th>95 %<th>"
    for row in rows:
        told = "told apart" if row["told_apart"] else "within chance"
        names = f"{e(row['first'])} − {e(row['second'])}"
        yield f"<tr><td>{names}<td>{row['value']:+.1f}<td>{row['low']:+.1f} to {row['high']:+.1f}<td>{told}"
    yield "</table></div>"


def _parts(report: Mapping[str, Any]) -> Iterator[str]:
    for name, about in (("kinds", "kind of prompt"), ("tags", "what the prompt asks for")):
        if report[name]:
            yield f"<h2>Overall by {about}</h2><p class=note>Of many such rows some are far out by chance.</p>"
            groups = {f"{part} ({found['votes']})": found["scores"] for part, found in report[name].items()}
            yield _plot(draw_scores(groups))


def _trust(report: Mapping[str, Any]) -> Iterator[str]:
    side = report["side_bias"]
    yield "<h2>Can the votes be relied on?</h2>"
    yield (
        f"<p>The left side won {50 + side['value']:.1f} % of decided votes: {side['value']:+.1f} points "
        f"({side['low']:+.1f} to {side['high']:+.1f}). Sides are in balance, so this moves no score. "
        f"{100 * report['votes']['both_bad']:.0f} % of the overall answers were “both bad”.</p>"
        "<div class=wide><table><tr><th><th>agreement of raters (alpha)<th>on pairs<th>shown again<th>same answer"
        "<th>opposite"
    )
    for axis in AXES:
        others, own = report["agreement"][axis], report["self_agreement"][axis]
        alpha = "" if others["alpha"] is None else f"{others['alpha']:.2f}"
        cells = (alpha, others["pairs"], own["repeated"], own["same"], own["opposite"])
        yield f"<tr><td>{axis}{''.join(f'<td>{cell}' for cell in cells)}"
    yield "</table></div><p class=note>Alpha is 1 where all agree and 0 where they agree as chance would have it.</p>"


def _raters(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    aside = [record["name"] for record in records if record["set_aside"]]
    said = f"Set aside, for failed checks: {', '.join(map(e, aside))}." if aside else "None is set aside."
    yield f"<h2>Raters</h2><p>{said}</p><div class=wide>"
    yield "<table><tr><th>rater<th>votes<th>checks<th>failed<th>seconds a vote<th>left side<th>"
    for record in records:
        left = "" if record["left"] is None else f"{100 * record['left']:.0f} %"
        cells = (record["votes"], record["checks"], record["failed"], f"{record['seconds']:.1f}", left)
        note = "set aside" if record["set_aside"] else ""
        yield f"<tr><td>{e(record['name'])}{''.join(f'<td>{cell}' for cell in cells)}<td>{note}"
    yield "</table></div>"
