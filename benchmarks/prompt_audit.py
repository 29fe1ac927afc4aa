"""Proves the audit of NAMI-1K's prompts on planted leaks: `python -m benchmarks.prompt_audit --out audit.json`.

Plants 200 leaks, each of another prompt: 50 copied, 50 reordered, 50 paraphrased and 50 translated to Chinese and back,
the last two by hand (tests/nami1k/leaks.jsonl). Among them stand captions that leak nothing: the other 800 prompts in
both languages, of the same hand and topics, and the captions of the emoji data set. Prints recall and false alarms by
kind, how the threshold of the embedding follows from 60 other paraphrases, and captions per second. Then audits changed
copies of emoji (recompressed, smaller, darker, mirrored, cropped) against the emoji themselves.
"""

import collections
import io
import json
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.timing import about
from nami_jax.data.emoji_captions.catalogue import catalogue
from nami_jax.files.disk import written_whole
from nami_jax.files.row_pipe import RowProcess
from nami_jax.nami1k.audit import FEATURES, SENTENCES
from nami_jax.nami1k.caption_files import Caption
from nami_jax.nami1k.image_copies import Features, find_copies
from nami_jax.nami1k.leaks import ALIKE, FALSE_ALARMS, TextAudit, Vectors, audit_texts, in_vectors
from nami_jax.nami1k.prompt_set import Prompt, PromptSet, read_prompts
from nami_jax.planning.tables import table
from nami_jax.terminal.command_line import parse_flags

TEXTS = Path(__file__).parent.parent / "tests" / "nami1k"
PARTS = ("proof", "rates", "pictures")
BY_SCRIPT = 50  # leaks that are copied, and that are reordered
PICTURES, CHANGED, SIDE = 300, 60, 144  # emoji that stand as training pictures, how many are copied, pixels
COPIES = ("{}", "{}", "Stock image: {}", "{} | 1024 x 768", "wow!! {} #art", "{}")


def copied(prompt: Prompt, number: int) -> str:
    """Returns a prompt as a crawl would hold it: verbatim, in capitals, without punctuation, or with words around."""
    text = prompt.zh if number % 3 == 2 and prompt.zh else prompt.en
    changed = (text, text.upper(), re.sub(r"[,.:;“”，。：；]", " ", text))[number // 3 % 3]
    return COPIES[number % len(COPIES)].format(changed)


def reordered(prompt: Prompt, number: int, seed: random.Random) -> str:
    """Returns a prompt with its clauses in another order, or its halves exchanged if it has but one."""
    text, gap = (prompt.zh, "，") if number % 4 == 3 and prompt.zh else (prompt.en, ", ")
    clauses = [clause for clause in re.split(r"[,.;:，。；：]\s*", text) if clause]
    if len(clauses) < 2:
        words = text.split()
        return " ".join(words[len(words) // 2 :] + words[: len(words) // 2])
    order = list(range(len(clauses)))
    while order == sorted(order):
        seed.shuffle(order)
    return gap.join(clauses[i] for i in order)


def planted(prompts: Sequence[Prompt]) -> dict[str, list[tuple[str, str]]]:
    """Returns kind of leak -> (the prompt's id, the caption that leaks it), no prompt twice."""
    kinds: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
    for line in (TEXTS / "leaks.jsonl").read_text().splitlines():
        leak = json.loads(line)
        kinds[leak["kind"]].append((leak["id"], leak["text"]))
    taken = {prompt for leaks in kinds.values() for prompt, _ in leaks}
    seed = random.Random(0)
    free = [prompt for prompt in prompts if prompt.id not in taken and len(prompt.en.split()) > 5]
    chosen = seed.sample(free, 2 * BY_SCRIPT)
    by_script = {
        "copied": [(p.id, copied(p, i)) for i, p in enumerate(chosen[:BY_SCRIPT])],
        "reordered": [(p.id, reordered(p, i, seed)) for i, p in enumerate(chosen[BY_SCRIPT:])],
    }
    return by_script | kinds


def prove(prompts: PromptSet, vectors: Vectors | None) -> tuple[list[dict[str, Any]], TextAudit]:
    """Audits planted leaks and clean captions against the prompts that leak.

    Returns:
        For each kind of caption: how many, how many were found for the right prompt, and pairs with a wrong one.
    """
    leaks = planted(prompts.prompts)
    targets = {prompt for some in leaks.values() for prompt, _ in some}
    leaking = PromptSet(tuple(p for p in prompts.prompts if p.id in targets), prompts.digest)
    other = [text for p in prompts.prompts if p.id not in targets for text in p.texts().values()]
    clean = {"other prompts": other, "emoji captions": [text for entry in catalogue() for text in entry.captions]}
    captions = [Caption(text, kind, i) for kind, some in leaks.items() for i, (_, text) in enumerate(some)]
    captions += [Caption(text, kind, i) for kind, texts in clean.items() for i, text in enumerate(texts)]
    found = audit_texts(leaking, captions, vectors)
    right, wrong = collections.Counter(), collections.Counter()
    measures: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    seen = set()
    for leak in found.leaks:
        kind, line = leak.caption.file, leak.caption.line
        if kind in clean or leaks[kind][line][0] != leak.prompt:
            wrong[kind] += 1
        elif (kind, line) not in seen:
            seen.add((kind, line))
            right[kind] += 1
            measures[kind][leak.measure] += 1
    rows = [
        {
            "kind": kind,
            "captions": len(some),
            "found": right[kind] if kind in leaks else None,
            "false_pairs": wrong[kind],
            "by": dict(measures[kind]),
        }
        for kind, some in (leaks | clean).items()
    ]
    return rows, found


def calibrate(prompts: Sequence[Prompt], vectors: Vectors) -> dict[str, Any]:
    """Derives the embedding's threshold: the lowest, in hundredths, with fewer than `FALSE_ALARMS` false pairs.

    Returns:
        It, the share of false pairs above it among all pairs of different prompts, and of paraphrases above it.
    """
    pairs = [json.loads(line) for line in (TEXTS / "paraphrases.jsonl").read_text().splitlines()]
    first, second = (in_vectors([pair[i] for pair in pairs], vectors) for i in (0, 1))
    alike = (first * second).sum(1)
    matrix = in_vectors([prompt.en for prompt in prompts], vectors)
    different = (matrix @ matrix.T)[np.triu_indices(len(matrix), 1)]
    threshold = next(
        cosine for cosine in np.arange(0.4, 1.01, 0.01).round(2) if (different >= cosine).mean() < FALSE_ALARMS
    )
    return {
        "threshold": float(threshold),
        "false_pairs": float((different >= threshold).mean()),
        "paraphrases": len(pairs),
        "found": float((alike >= threshold).mean()),
    }


def synthetic(count: int) -> Iterator[Caption]:
    """Yields captions of 6 to 20 words, drawn from the words of the emoji captions."""
    words = sorted({word for entry in catalogue() for caption in entry.captions for word in caption.split()})
    seed = random.Random(0)
    for number in range(count):
        yield Caption(" ".join(seed.choices(words, k=seed.randint(6, 20))), "synthetic", number)


def rate(prompts: PromptSet, vectors: Vectors | None, count: int) -> float:
    """Returns captions compared per second."""
    captions = list(synthetic(count))
    start = time.perf_counter()
    audit_texts(prompts, captions, vectors)
    return count / (time.perf_counter() - start)


def recompressed(image: Image.Image) -> Image.Image:
    """Returns the picture after JPEG of quality 40."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file).convert("RGB")


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "the same": lambda image: image,
    "JPEG of quality 40": recompressed,
    "half the size": lambda image: image.resize((SIDE // 2, SIDE // 2)),
    "a fifth darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "mirrored": ImageOps.mirror,
    "cropped to 90 %": lambda image: image.crop((7, 7, SIDE - 7, SIDE - 7)),
    "cropped to 80 %": lambda image: image.crop((14, 14, SIDE - 14, SIDE - 14)),
}


def prove_pictures(features: Features | None) -> list[dict[str, Any]]:
    """Audits changed copies of emoji; returns for each change how many were found, and false pairs."""
    drawn = [entry for entry in catalogue() if entry.category not in ("Flags", "Symbols")]
    with tempfile.TemporaryDirectory() as folder:
        training, generated = Path(folder) / "training", Path(folder) / "generated"
        for part in (training, *(generated / name for name in CHANGES)):
            part.mkdir(parents=True)
        for number, entry in enumerate(random.Random(0).sample(drawn, PICTURES)):
            art = Image.fromarray(entry.thumbnail).resize((SIDE, SIDE))
            picture = Image.alpha_composite(Image.new("RGBA", art.size, "white"), art).convert("RGB")
            picture.save(training / f"{number}.png")
            for name, change in CHANGES.items() if number < CHANGED else ():
                change(picture).save(generated / name / f"{number}.png")
        copies = find_copies(generated, training, features).copies
    rows = []
    for name in CHANGES:
        paths = [(Path(c.generated), Path(c.training)) for c in copies if Path(c.generated).parent.name == name]
        same = [path.name == original.name for path, original in paths]
        false_pairs = len(same) - sum(same)
        rows.append({"change": name, "copies": CHANGED, "found": sum(same), "false_pairs": false_pairs})
    return rows


def show(result: Mapping[str, Any]) -> str:
    """Returns what was measured as tables."""
    lines = []
    if "proof" in result:
        rows = [
            (
                row["kind"],
                str(row["captions"]),
                "" if row["found"] is None else str(row["found"]),
                str(row["false_pairs"]),
                ", ".join(f"{count} {measure}" for measure, count in row["by"].items()),
            )
            for row in result["proof"]
        ]
        lines.append(table(("captions", "number", "found", "false pairs", "found by"), rows))
        derived = result["calibration"]
        lines.append(
            f"threshold {derived['threshold']:.2f} (in use: {ALIKE}): {derived['false_pairs']:.1e} of the pairs of "
            f"different prompts, {derived['found']:.0%} of {derived['paraphrases']} other paraphrases"
        )
    for name, timed in result.get("rates", {}).items():
        lines.append(f"{name}: {timed['captions_per_second']:.0f} captions a second, over {timed['captions']}")
    if "pictures" in result:
        rows = [tuple(map(str, row.values())) for row in result["pictures"]]
        lines.append(table((f"copies among {PICTURES} emoji", "number", "found", "false pairs"), rows))
    return "\n\n".join(lines)


def measured(parts: Sequence[str], prompts: PromptSet, captions: int, embedded: int) -> dict[str, Any]:
    """Runs the parts that are named."""
    result: dict[str, Any] = {}
    if "pictures" in parts:
        with RowProcess(FEATURES) as features:
            result["pictures"] = prove_pictures(features)
    with RowProcess(SENTENCES) as vectors:
        if "proof" in parts:
            result["proof"], _ = prove(prompts, vectors)
            result["calibration"] = calibrate(prompts.prompts, vectors)
        if "rates" in parts:
            kinds = {"without embedding": (None, captions), "with embedding": (vectors, embedded)}
            result["rates"] = {
                name: {"captions": count, "captions_per_second": rate(prompts, which, count)}
                for name, (which, count) in kinds.items()
            }
    return result


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes; what other parts have written into the file stays."""
    del argv
    args, prompts = flags.FLAGS, read_prompts()
    result = measured(args.parts, prompts, args.captions, args.embedded)
    print(show(result))
    if args.out:
        path = Path(args.out)
        before = json.loads(path.read_text()) if path.exists() else {}
        with written_whole(path) as unfinished:
            unfinished.write_text(
                json.dumps(before | about() | {"prompt_set": prompts.version} | result, indent=1) + "\n"
            )


if __name__ == "__main__":
    flags.DEFINE_list("parts", list(PARTS), f"of {', '.join(PARTS)}")
    flags.DEFINE_integer("captions", 100_000, "synthetic captions that are timed without embeddings")
    flags.DEFINE_integer("embedded", 10_000, "synthetic captions that are timed with embeddings")
    flags.DEFINE_string("out", None, "file for the result as JSON")
    app.run(main, flags_parser=parse_flags)
