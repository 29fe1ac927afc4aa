"""Shows what NAMI-1K is made of and how varied it is: `python -m nami_jax.nami1k describe`.

Prints kinds, topics, styles and tags, whether the set fulfils its design, and, beside another set of prompts, lengths,
near-duplicates, compression and distinct words. `--beside prompts.txt` (.jsonl, .parquet, a folder) names that set; if
not given, the captions of the emoji data set stand there. Writes a picture and JSON into --out.
"""

import collections
import contextlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags
from matplotlib.figure import Figure

from nami_jax.config import ConfigError
from nami_jax.data.emoji_captions.catalogue import catalogue
from nami_jax.files.disk import written_whole
from nami_jax.files.output_folder import make_folder
from nami_jax.files.row_pipe import RowProcess
from nami_jax.nami1k.audit import SENTENCES
from nami_jax.nami1k.caption_files import KEYS, read_captions
from nami_jax.nami1k.design import read_design, shortfalls
from nami_jax.nami1k.prompt_set import Prompt, PromptSet, Tag, read_prompts
from nami_jax.nami1k.variety import Variety, equal_parts, measure

OUT = Path("out") / "nami1k"
PICTURE, NUMBERS = "makeup.png", "makeup.json"
OURS, EMOJI = "prompts", "emoji captions"
MOST_READ = 100_000  # texts of the other set, from its beginning: those that are compared are drawn from them
TAGS: tuple[Tag, ...] = ("count", "colour", "space", "text", "people", "action", "emotion", "negation", "rare")


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("prompts", None, "file of the prompts; the thousand of NAMI-1K if not given")
    flags.DEFINE_string("beside", None, "other prompts: a .txt, .jsonl or .parquet file, or a folder")
    flags.DEFINE_list("keys", list(KEYS), "fields or columns that hold prompts")
    flags.DEFINE_bool("embedding", True, "compare meanings too, which takes most of the time")
    flags.DEFINE_string("out", str(OUT), "folder for the picture and the numbers")


def main(argv: list[str]) -> None:
    """Describes, prints, draws and writes."""
    del argv
    args, out = flags.FLAGS, Path(flags.FLAGS.out)
    prompts = read_prompts(Path(args.prompts) if args.prompts else None)
    make_folder(out, field="out")
    name, others = _others(args)
    with contextlib.ExitStack() as stack:
        vectors = stack.enter_context(RowProcess(SENTENCES)) if args.embedding else None
        parts = equal_parts([[prompt.en for prompt in prompts.prompts], others])
        letters = min(len("\n".join(part).encode()) for part in parts)
        sets = {which: measure(part, letters, vectors) for which, part in zip((OURS, name), parts, strict=True)}
    made = make_up(prompts.prompts)
    owed = None if args.prompts else shortfalls(read_design(), prompts.prompts)
    print(report(prompts, made, owed, sets, letters))
    numbers = {"version": prompts.version, "digest": prompts.digest, "make_up": made, "owed_to_the_design": owed}
    numbers |= {"variety": {which: variety.to_dict() for which, variety in sets.items()}}
    with written_whole(out / NUMBERS) as unfinished:
        unfinished.write_text(json.dumps(numbers, ensure_ascii=False, indent=1) + "\n")
    draw(prompts.prompts, made, sets, out / PICTURE)
    print(f"\n{out / PICTURE}\n{out / NUMBERS}")


def _others(args: flags.FlagValues) -> tuple[str, list[str]]:
    """Returns the name and the texts of the set that stands beside ours."""
    if args.beside is None:
        return EMOJI, [caption for entry in catalogue() for caption in entry.captions]
    captions = itertools.islice(read_captions(Path(args.beside), tuple(args.keys)), MOST_READ)
    texts = [caption.text for caption in captions]
    if not texts:
        raise ConfigError(f"beside = {args.beside!r}: holds no text. Name a file with one prompt a line.")
    return Path(args.beside).name, texts


def make_up(prompts: Sequence[Prompt]) -> dict[str, dict[str, int]]:
    """Returns how many prompts there are of each kind, topic, style and tag."""
    return {
        "kinds": dict(collections.Counter(prompt.kind for prompt in prompts)),
        "topics": dict(collections.Counter(prompt.topic for prompt in prompts)),
        "styles": dict(collections.Counter(prompt.style for prompt in prompts).most_common()),
        "tags": {tag: sum(tag in prompt.tags for prompt in prompts) for tag in TAGS}
        | {"none": sum(not prompt.tags for prompt in prompts)},
    }


def report(
    prompts: PromptSet,
    made: Mapping[str, Mapping[str, int]],
    owed: Sequence[str] | None,
    sets: Mapping[str, Variety],
    letters: int,
) -> str:
    """Returns all of it as text."""
    lines = [f"{len(prompts.prompts)} prompts, version {prompts.version}"]
    for what, counts in made.items():
        lines.append(f"{what}: {', '.join(f'{name} {count}' for name, count in counts.items())}")
    characters = [len(prompt.zh) for prompt in prompts.prompts if prompt.zh]
    if characters:
        lines.append(f"Chinese: {len(characters)} prompts, {min(characters)} to {max(characters)} characters")
    if owed is not None:
        lines.append("design: fulfilled" if not owed else "\n  ".join([f"design: {len(owed)} are owed", *owed]))
    names = list(sets)
    width = max(map(len, names)) + 2
    rows = [("", *names), *((row, *(text(sets[name]) for name in names)) for row, text in ROWS.items())]
    lines += ["", *(f"{row[0]:<42}" + "".join(f"{cell:>{max(width, 22)}}" for cell in row[1:]) for row in rows)]
    lines.append(f"(the same number of texts from each, drawn at random; {letters} bytes of each are compressed)")
    return "\n".join(lines)


def _share(share: float | None) -> str:
    return "not measured" if share is None else f"{share:.1%}"


ROWS = {
    "texts": lambda v: str(v.texts),
    "words: least, quartiles, most": lambda v: " ".join(map(str, v.words)),
    "distinct among 500 words (type/token)": lambda v: f"{v.distinct:.3f}",
    "compression ratio (zlib)": lambda v: f"{v.compression:.2f}",
    "share half of their 3-grams (MinHash)": lambda v: _share(v.same_words),
    "have another of like meaning (MiniLM)": lambda v: _share(v.alike),
    "cosine with the nearest other, median": lambda v: f"{v.to_dict()['median_nearest'] or 0:.2f}",
}


def draw(
    prompts: Sequence[Prompt], made: Mapping[str, Mapping[str, int]], sets: Mapping[str, Variety], path: Path
) -> None:
    """Draws topics by tags, styles, lengths and nearness as one PNG."""
    figure = Figure(figsize=(14, 10), layout="constrained")
    axes = figure.subplots(2, 2)
    topics = list(made["topics"])
    cells = [[sum(t in p.tags for p in prompts if p.topic == topic) for t in TAGS] for topic in topics]
    axes[0, 0].imshow(cells, cmap="Blues", aspect="auto", vmin=0)
    axes[0, 0].set(title="prompts by topic and tag", yticks=range(len(topics)), yticklabels=topics)
    axes[0, 0].set_xticks(range(len(TAGS)), TAGS, rotation=45, ha="right")
    dark = 0.7 * max(itertools.chain.from_iterable(cells))
    for y, row in enumerate(cells):
        for x, count in enumerate(row):
            colour = "white" if count > dark else "black"
            axes[0, 0].text(x, y, count, ha="center", va="center", fontsize=7, color=colour)
    styles = made["styles"]
    axes[0, 1].bar_label(axes[0, 1].barh(list(styles), list(styles.values()), color="#3b82c4"), padding=3, fontsize=8)
    axes[0, 1].margins(x=0.1)
    axes[0, 1].invert_yaxis()
    axes[0, 1].set(title="prompts by style", xlabel="prompts")
    for kind in made["kinds"]:
        words = [len(prompt.en.split()) for prompt in prompts if prompt.kind == kind]
        axes[1, 0].hist(words, bins=range(0, 125, 4), alpha=0.7, label=kind)
    axes[1, 0].set(title="words of a prompt", xlabel="words", ylabel="prompts")
    axes[1, 0].legend()
    for name, variety in sets.items():
        if len(variety.nearest):
            axes[1, 1].hist(variety.nearest, bins=40, range=(0, 1), alpha=0.6, label=name)
    axes[1, 1].set(title="cosine with the nearest other text", xlabel="cosine of MiniLM's vectors", ylabel="texts")
    if axes[1, 1].has_data():
        axes[1, 1].legend()
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")
