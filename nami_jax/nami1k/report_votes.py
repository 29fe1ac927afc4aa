"""Says what votes show and what they do not: `python -m nami_jax.nami1k report --votes votes.db --out report`.

Leaves report.html, a page with plots, and report.json. A server may be writing the votes meanwhile.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from nami_jax.config import nearest, require
from nami_jax.files.disk import written_whole
from nami_jax.files.output_folder import make_folder
from nami_jax.nami1k.ballots import read_ballots
from nami_jax.nami1k.prompt_set import read_prompts
from nami_jax.nami1k.questions import AXES
from nami_jax.nami1k.vote_page import make_page
from nami_jax.nami1k.vote_report import make_report

WEIGHTS = ["relevance=1", "coherence=1", "aesthetics=1", "realism=1"]


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("votes", None, "file of the votes, which serve wrote", required=True)
    flags.DEFINE_string("out", None, "folder for report.html and report.json", required=True)
    flags.DEFINE_string("prompts", None, "file of prompts; without it the thousand of NAMI-1K")
    flags.DEFINE_list("weights", WEIGHTS, "of the axes in the weighted score")
    flags.DEFINE_integer("draws", 300, "resamples of each kind", lower_bound=50, upper_bound=100_000)


def main(argv: list[str]) -> None:
    """Reads the votes, and writes and prints what they say."""
    del argv
    args = flags.FLAGS
    weights = parse_weights(args.weights)
    prompts = read_prompts(None if args.prompts is None else Path(args.prompts))
    report = make_report(read_ballots(Path(args.votes), prompts.digest), prompts, weights, args.draws)
    out = Path(args.out)
    make_folder(out, field="--out")
    for name, text in (("report.json", json.dumps(report, indent=1) + "\n"), ("report.html", make_page(report))):
        with written_whole(out / name) as path:
            path.write_text(text)
    if report["simulated"]:
        print(f"simulated votes, which say nothing about people: {'; '.join(report['simulated'])}")
    for row in sorted(report["scores"]["overall"], key=lambda row: -row["value"]):
        print(f"{row['value']:5.1f} ({row['low']:.1f} to {row['high']:.1f})  {row['model']}")
    print(f"{report['votes']['counted']} votes count; {out / 'report.html'}")


def parse_weights(given: Sequence[str]) -> dict[str, float]:
    """Reads "relevance=0.4" and the like; raises `ConfigError` for an unknown axis or a weight that is none."""
    weights = {}
    for text in given:
        axis, _, number = text.partition("=")
        require(
            axis in AXES, field="--weights", value=text, rule="names no axis", remedy=nearest(axis, AXES).strip(" .")
        )
        try:
            weights[axis] = float(number)
        except ValueError:
            weights[axis] = -1.0
        require(
            0 <= weights[axis] <= 1e6,
            field="--weights",
            value=text,
            rule="is no weight of 0 or more",
            remedy="Write relevance=0.4",
        )
    require(
        sum(weights.values()) > 0, field="--weights", value=list(given), rule="are all 0", remedy="Set one at least"
    )
    return weights
