"""What a first run of the arena on models of emoji needs: `python -m benchmarks.first_run --out out/first_run`.

Writes held-out emoji as a prompt set of the form of NAMI-1K (prompts.jsonl), their own art as the pictures that
simulated raters compare with (reference/ID.png), and the captions of the training split for the audit (training.txt).
With --images, once for each model's folder, it draws some of their pictures below the art instead (pictures.webp).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from PIL import Image

from nami_jax.config import ConfigError, DataConfig, require
from nami_jax.data.captioned_images import all_captions, open_source
from nami_jax.data.images import decode_image
from nami_jax.data.tfds_builder import open_records
from nami_jax.files.disk import written_whole
from nami_jax.files.output_folder import make_folder
from nami_jax.nami1k.picture_folders import read_folders
from nami_jax.nami1k.prompt_set import plain, read_prompts
from nami_jax.sampling.pictures import grid, save_png
from nami_jax.terminal.command_line import parse_flags

PROMPTS, REFERENCE, TRAINING, PICTURES = "prompts.jsonl", "reference", "training.txt", "pictures.webp"
SPLITS = ("held_out", "held_out_pairs")
CATEGORIES = ("Food & Drink", "Animals & Nature")  # what configs/emoji_tiny.py draws
SHOWN = 16


def prompts(cfg: DataConfig, categories: Sequence[str]) -> Iterator[tuple[dict[str, Any], Image.Image]]:
    """Yields each held-out emoji of some categories as a prompt, its first caption, with the picture that it has.

    Of emoji with one caption, such as animals that look two ways, the first is taken.
    """
    seen = set()
    for split in SPLITS:
        records, _ = open_records(cfg, split)
        for i in range(len(records)):
            record = records[i]
            text, topic, style = (
                value.decode() for value in (record["captions"][0], record["category"], record["style"])
            )
            if topic in categories and plain(text) not in seen:
                seen.add(plain(text))
                prompt = {"id": f"{split}-{i:03}", "kind": "short", "topic": topic, "style": style, "en": text}
                yield prompt, Image.fromarray(decode_image(record["image"], cfg.side))


def write(cfg: DataConfig, categories: Sequence[str], out: Path) -> int:
    """Writes prompts, references and training captions; returns how many prompts these are."""
    made = list(prompts(cfg, categories))
    require(bool(made), field="categories", value=list(categories), rule="hold no emoji", remedy="Leave it out")
    lines = [json.dumps(prompt, ensure_ascii=False) for prompt, _ in made]
    make_folder(out, field="out")
    files: Mapping[str, Sequence[str]] = {PROMPTS: lines, TRAINING: all_captions(open_source(cfg, cfg.train_split))}
    for name, texts in files.items():
        with written_whole(out / name) as unfinished:
            unfinished.write_text("\n".join(texts) + "\n")
    for prompt, picture in made:
        save_png(picture, out / REFERENCE / f"{prompt['id']}.png", {})
    return len(made)


def show(out: Path, images: Sequence[str]) -> None:
    """Draws pictures of evenly spaced prompts: the emoji, and below it each model's."""
    texts = {prompt.id: prompt.en for prompt in read_prompts(out / PROMPTS).prompts}
    ids = list(texts)[:: max(len(texts) // SHOWN, 1)][:SHOWN]
    folders = read_folders([f"{REFERENCE}={out / REFERENCE}", *images], ids)
    rows = [[Image.open(folder.folder / f"{name}.png").convert("RGB") for name in ids] for folder in folders]
    sheet = grid([texts[name] for name in ids], rows, f"From top to bottom: {', '.join(f.name for f in folders)}")
    with written_whole(out / PICTURES) as unfinished:
        sheet.save(unfinished, format="webp", lossless=True)


def main(argv: list[str]) -> None:
    """Writes the files, or draws the pictures."""
    del argv
    args, out = flags.FLAGS, Path(flags.FLAGS.out)
    logging.set_verbosity(logging.ERROR)
    try:
        if args.images:
            show(out, args.images)
            print(out / PICTURES)
            return
        cfg = DataConfig.from_dict({"name": args.data, "data_dir": args.data_dir, "side": args.side})
        print(f"{out}: {write(cfg, args.categories, out)} prompts")
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("data", "emoji_captions/styles_32", "data set with emoji in styles")
    flags.DEFINE_string("data_dir", "data", "where it is stored")
    flags.DEFINE_integer("side", 32, "of its pictures, pixels", lower_bound=1)
    flags.DEFINE_list("categories", list(CATEGORIES), "of the emoji that become prompts")
    flags.DEFINE_multi_string("images", [], "a model's folder of ID.png, or NAME=FOLDER; once for each model")
    flags.DEFINE_string("out", "out/first_run", "folder for all of it")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)
