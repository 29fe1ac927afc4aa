"""One page to look at: scores, the loss by noise, and the best, middling and worst samples beside their originals.

It is one HTML file that asks for no other.
"""

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from nami_jax.evaluation.evaluator import Evaluation, Measurement
from nami_jax.evaluation.noise_losses import QUARTERS

SHOWN = 12  # pictures of a kind
BINS = 20
STYLE = """
:root { color-scheme: light dark; --line: #8886; --bar: #3b82c4; --good: #2e8b57; --bad: #c0503f; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr { border-bottom: 1px solid var(--line); }
td.about { text-align: left; opacity: .75; }
.bar { display: inline-block; height: .7rem; background: var(--bar); vertical-align: middle; }
.bars td { border: 0; } .pictures { display: flex; flex-wrap: wrap; gap: 1.1rem; }
figure { margin: 0; width: 13.5rem; }
figure img { width: 4.2rem; margin-right: .25rem; image-rendering: pixelated; background: white; }
figcaption { font-size: .85rem; } .right { color: var(--good); } .wrong { color: var(--bad); }
.note { opacity: .75; max-width: 48rem; }
"""
MEANING = {
    "concept": "nearest real picture in another style shows the same thing",
    "style": "nearest real picture of another thing is drawn alike",
    "concept_and_style": "both",
    "concept_closer": "chance that a picture of the same thing, in another style, is nearer than another thing's",
    "style_closer": "chance that another thing's picture in the same style is nearer than one in another style",
    "original": "nearest real picture of all is the one that was asked for",
    "copies": "nearer to a training picture than 95 % of unseen real ones",
    "nearer_than_unseen": "chance that it is nearer to training than an unseen real one",
    "diversity": "mean distance between samples of different captions",
    "diversity/of_a_caption": "mean distance between samples of one caption",
    "kid": "kernel distance of the sets, 0 if alike",
    "frechet": "Fréchet distance of the sets, 0 if alike",
    "sliced_wasserstein": "sliced Wasserstein distance of the sets, 0 if alike",
    "clipped_density": "share of samples that look real",
    "clipped_coverage": "share of the real pictures that is covered",
    "squared_error": "mean squared difference from the original, pixels in [-1, 1]",
    "loss": "error of the predicted velocity",
}


def make_page(report: Mapping[str, Any], evaluation: Evaluation, samples: np.ndarray, measured: Measurement) -> str:
    """Returns the page as HTML.

    Args:
        report: the evaluation's.
        evaluation: captions, originals and real pictures.
        samples: (seeds, N, H, W, 3) uint8, of which the first seed's are shown.
        measured: what was found of each picture.
    """
    e = html.escape
    title = f"{report['checkpoint']} on {report['split']}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{e(title)}</title><style>{STYLE}</style>",
        f"<h1>{e(title)}</h1><p class=note>{e(_about(report))}</p>",
        "<h2>Scores</h2>",
        *_score_table(report["scores"]),
        "<h2>Loss by noise</h2><p class=note>Error of the predicted velocity on the originals, at fixed noise: each "
        "stage, from the cleanest quarter of its noise range to the noisiest.</p>",
        *_loss_bars(report["scores"]),
        "<h2>Samples</h2><p class=note>Original, sample, and the training picture nearest to the sample; ranked by the "
        "distance of the sample's features from the original's.</p>",
        *_galleries(evaluation, samples[0], {name: of[0] for name, of in measured.pictures.items()}),
        "<h2>How they are spread</h2>",
        *_histogram("distance from the original", measured.pictures["from_original"].ravel()),
        *_histogram("squared error", measured.pictures["squared_error"].ravel()),
    ]
    return "\n".join(parts) + "\n"


def _about(report: Mapping[str, Any]) -> str:
    sampler, seeds = report["sampler"], report["settings"]["seeds"]
    return (
        f"{report['data']}: {report['captions']} captions of {report['split']}, {seeds} samples of each, "
        f"{' + '.join(map(str, sampler['steps']))} steps by {sampler['solver']}, guidance "
        f"{sampler['guidance_scale']}; {report['device']}, {report['date']}. Intervals hold 95 %."
    )


def _score_table(scores: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "<table><tr><th>score<th>value<th>interval<th>real pictures<th>chance<th></tr>"
    for name, found in scores.items():
        if name.startswith("loss/"):
            continue
        low, high = found["low"], found["high"]
        interval = "" if low is None else f"{_number(low)} to {_number(high)}"
        meaning = MEANING.get(name) or MEANING.get(name.partition("/")[0], "")
        cells = (_number(found["value"]), interval, _number(found["real"]), _number(found["chance"]))
        row = "".join(f"<td>{cell}" for cell in (html.escape(name), *cells))
        yield f"<tr>{row}<td class=about>{html.escape(meaning)}</tr>"
    yield "</table>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _loss_bars(scores: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    quarters = {name: found["value"] for name, found in scores.items() if name.count("/") == 2}
    most = max(quarters.values())
    heads = "".join(f"<th colspan=2 style='text-align:center'>{text}" for text in ("cleanest", "", "", "noisiest"))
    yield f"<table class=bars><tr><th>stage{heads}</tr>"
    for stage in dict.fromkeys(name.rpartition("/")[0] for name in quarters):
        cells = [_bar(quarters[f"{stage}/noise_{q}"], most, 8) for q in range(1, QUARTERS + 1)]
        yield f"<tr><td>{stage.rpartition('_')[2]}{''.join(cells)}</tr>"
    yield "</table>"


def _bar(value: float, most: float, widest: float) -> str:
    width = widest * value / most if most else 0
    return f'<td>{_number(value)}<td style="text-align:left"><span class=bar style="width:{width:.2f}rem"></span>'


def _histogram(what: str, values: np.ndarray) -> Iterator[str]:
    counts, edges = np.histogram(values, BINS)
    yield f"<h3>{html.escape(what)}</h3><table class=bars>"
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        yield f"<tr><td>{_number(low)} to {_number(high)}{_bar(int(count), int(counts.max()), 24)}</tr>"
    yield "</table>"


def _galleries(evaluation: Evaluation, samples: np.ndarray, of: Mapping[str, np.ndarray]) -> Iterator[str]:
    order, shown = np.argsort(of["from_original"]), max(min(SHOWN, len(samples) // 3), 1)
    middle = (len(order) - shown) // 2
    for title, some in (
        ("The nearest to their originals", order[:shown]),
        ("In the middle", order[middle : middle + shown]),
        ("The furthest", order[len(order) - shown :][::-1]),
    ):
        yield f"<h3>{title}</h3><div class=pictures>"
        for i in some.tolist():
            pictures = (evaluation.originals[i], samples[i], evaluation.picture(int(of["nearest_trained"][i])))
            yield _figure(pictures, evaluation.captions[i], _remarks(of, i))
        yield "</div>"


def _remarks(of: Mapping[str, np.ndarray], i: int) -> str:
    found = [f"distance {_number(of['from_original'][i])}"]
    for kind in ("concept", "style"):
        if kind in of:
            found.append(
                f"<span class={'right' if of[kind][i] else 'wrong'}>{kind} {'✓' if of[kind][i] else '✗'}</span>"
            )
    return ", ".join(found)


def _figure(pictures: Sequence[np.ndarray], caption: str, remarks: str) -> str:
    images = "".join(f'<img alt="" src="data:image/png;base64,{_png(picture)}">' for picture in pictures)
    return f"<figure>{images}<figcaption>{html.escape(caption)}<br>{remarks}</figcaption></figure>"


def _png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
