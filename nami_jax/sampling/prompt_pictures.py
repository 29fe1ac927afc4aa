"""A picture of each of many prompts, a file each, so that the same call continues where it was interrupted.

`main` runs in a process of its own, for a program that must not load jax: `python -m nami_jax.nami1k generate`.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from nami_jax.config import preset_prompt, require
from nami_jax.files.disk import written_whole
from nami_jax.files.json_files import read_json
from nami_jax.files.output_folder import make_folder
from nami_jax.sampling.pictures import save_png
from nami_jax.sampling.pipeline import NamiPipeline
from nami_jax.sampling.pipeline_command import pipeline_command
from nami_jax.sampling.prompts import picture_batches

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class PromptPictures:
    """What is drawn, as JSON can hold it.

    Attributes:
        checkpoint: a run's workdir or a folder of converted weights.
        step: of a run; None: the newest.
        preset: of the sampler; None: the model's own settings.
        prompts: name of the file, without `.png` -> text.
        about: what else goes into the manifest, such as the version of the prompts.
        out: folder of the pictures; with several of a prompt, of the folders "1", "2", ...
        seed: of the noise, which differs from prompt to prompt and from picture to picture.
        num_images: pictures of each prompt.
        batch_size: pictures drawn at once.
    """

    checkpoint: str
    step: int | None
    preset: str | None
    prompts: Mapping[str, str]
    about: Mapping[str, Any]
    out: str
    seed: int
    num_images: int
    batch_size: int

    def files(self) -> list[tuple[Path, str]]:
        """Returns the path of each picture and the text that it shows, in the order that keys their noise."""
        folders = [Path(self.out)]
        if self.num_images > 1:
            folders = [Path(self.out) / str(number + 1) for number in range(self.num_images)]
        return [(folder / f"{name}.png", text) for folder in folders for name, text in self.prompts.items()]


def draw_prompts(pipe: NamiPipeline, wanted: PromptPictures) -> int:
    """Draws the pictures that are not there yet; returns how many these were.

    Raises:
        ConfigError: the folder holds pictures that were drawn in another way.
    """
    sample, texts = pipe.settings(wanted.preset), preset_prompt(wanted.preset)
    manifest = {
        **wanted.about,
        **pipe.fingerprints(),
        "side": pipe.cfg.side,
        "sampler": sample.to_dict(),
        "prompt_suffix": texts.suffix,
        "negative_prompt": texts.negative,
        "seed": wanted.seed,
        "num_images": wanted.num_images,
    }
    keep_manifest(Path(wanted.out), json.loads(json.dumps(manifest)))
    files = list(enumerate(wanted.files()))
    missing = [(number, path, text) for number, (path, text) in files if not path.exists()]
    for some, count in picture_batches(len(missing), wanted.batch_size, progress=True) if missing else ():
        numbers, paths, prompts = zip(*(missing[i] for i in some), strict=True)
        text, negative = pipe.encode([*(text + texts.suffix for text in prompts), texts.negative], split=len(prompts))
        latents = pipe.sample_latents(text, negative, sample, seed=wanted.seed, numbers=numbers)
        for path, prompt, picture in list(zip(paths, prompts, pipe.decode(latents), strict=True))[:count]:
            save_png(picture, path, {"prompt": prompt, "checkpoint": pipe.source, "seed": wanted.seed})
    return len(missing)


def keep_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes what makes the pictures beside them, or compares it with what is there.

    Raises:
        ConfigError: it differs, or there are pictures without it.
    """
    make_folder(folder, field="out")
    path = folder / MANIFEST
    if path.exists():
        there = read_json(path, "Delete the folder, or set another --out")
        other = sorted(name for name in {*manifest, *there} if manifest.get(name) != there.get(name))
        require(
            not other,
            field="out",
            value=str(folder),
            rule=f"holds pictures that were drawn with another {', '.join(other)}",
            remedy="Set another folder, or delete this one",
        )
        return
    require(
        not any(folder.rglob("*.png")),
        field="out",
        value=str(folder),
        rule=f"holds pictures of which no {MANIFEST} tells how they were drawn",
        remedy="Set another folder",
    )
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Draws what standard input describes, a `PromptPictures` as JSON."""
    with pipeline_command():
        wanted = PromptPictures(**json.load(sys.stdin))
        drawn = draw_prompts(NamiPipeline.from_pretrained(wanted.checkpoint, wanted.step), wanted)
    print(f"{wanted.out}: {drawn} pictures drawn, {len(wanted.files()) - drawn} were there, by {jax.devices()[0]}")
