"""Looks for the prompts in a training set, or for its pictures among generated ones: `python -m nami_jax.nami1k audit`.

`--against captions.txt` (also .jsonl, .parquet, or a folder of these) finds captions that are a prompt, part of one, or
like one in meaning. `--images A/ --training B/` finds pictures of A that copy one of B. Prints the pairs, the strongest
first, and writes all of them with --out. Ends with status 0 if there are none, 1 if there are, 2 if it cannot run.
"""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

from nami_jax.config import ConfigError
from nami_jax.files.disk import written_whole
from nami_jax.files.row_pipe import RowProcess
from nami_jax.nami1k.caption_files import KEYS, read_captions
from nami_jax.nami1k.image_copies import find_copies
from nami_jax.nami1k.leaks import audit_texts
from nami_jax.nami1k.prompt_set import read_prompts
from nami_jax.terminal.progress import progress_bar

SENTENCES, FEATURES = "nami_jax.text.sentence_vectors", "nami_jax.evaluation.feature_rows"
SHOWN = 20  # pairs
LETTERS = 100  # of a text


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("against", None, "captions of the training set: a .txt, .jsonl or .parquet file, or a folder")
    flags.DEFINE_list("keys", list(KEYS), "fields or columns that hold captions")
    flags.DEFINE_string("prompts", None, "file of the prompts; the thousand of NAMI-1K if not given")
    flags.DEFINE_string("images", None, "folder of generated pictures")
    flags.DEFINE_string("training", None, "folder of training pictures that they are compared with")
    flags.DEFINE_bool("embedding", True, "compare meanings and features too, which takes most of the time")
    flags.DEFINE_string("out", None, "file for the report as JSON")


def main(argv: list[str]) -> None:
    """Compares, prints and writes."""
    del argv
    args = flags.FLAGS
    if (args.against is None) == (args.images is None):
        raise ConfigError("nothing to compare. Pass --against CAPTIONS, or --images FOLDER with --training FOLDER.")
    if args.images is not None and args.training is None:
        raise ConfigError("--training is missing. Name the folder of training pictures.")
    report = _audit_captions(args) if args.against else _audit_images(args)
    if args.out:
        with written_whole(Path(args.out)) as unfinished:
            unfinished.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")
        print(args.out)
    sys.exit(1 if report.get("leaks") or report.get("copies") else 0)


def _audit_captions(args: flags.FlagValues) -> dict[str, Any]:
    prompts = read_prompts(Path(args.prompts) if args.prompts else None)
    captions = read_captions(Path(args.against), tuple(args.keys))
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        vectors = stack.enter_context(RowProcess(SENTENCES)) if args.embedding else None
        found = audit_texts(prompts, progress_bar(captions, desc="captions", unit=" captions"), vectors)
    report = {"prompt_set": prompts.version, "against": args.against, **found.to_dict()}
    seconds = time.monotonic() - start
    counts = ", ".join(f"{count} {measure}" for measure, count in found.counts.items())
    print(f"{found.captions} captions in {seconds:.0f} s; pairs: {counts}; prompts that leak: {len(found.prompts)}")
    texts = {prompt.id: prompt.texts() for prompt in prompts.prompts}
    for leak in report["leaks"][:SHOWN]:
        print(f"\n{leak['by']} {leak['score']:.2f}  {leak['file']}:{leak['line']}")
        print(f"  {leak['prompt']}: {texts[leak['prompt']][leak['language']][:LETTERS]}")
        print(f"  caption: {leak['caption'][:LETTERS]}")
    return report


def _audit_images(args: flags.FlagValues) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        features = stack.enter_context(RowProcess(FEATURES)) if args.embedding else None
        found = find_copies(Path(args.images), Path(args.training), features)
    report = {"images": args.images, "against": args.training, **found.to_dict()}
    print(
        f"{found.generated} pictures against {found.training}; pairs alike: {found.pairs}; "
        f"could not be read: {len(found.unreadable)}"
    )
    for copy in report["copies"][:SHOWN]:
        cosine = "" if copy["cosine"] is None else f", cosine {copy['cosine']:.2f}"
        print(f"{copy['generated']}  {copy['training']}  {copy['bits']} bits differ{cosine}")
    return report
