"""Draws all prompts with a model of nami_jax: `python -m nami_jax.nami1k generate --checkpoint RUN --out A/`.

Writes `ID.png` for each prompt, or with --num_images the folders A/1, A/2, ..., each of them whole; and `manifest.json`
with all that makes the pictures. The same command continues. The drawing is done by another process: this one never
loads jax.
"""

import json
import subprocess
import sys
from pathlib import Path

from absl import flags

from nami_jax.config import ConfigError, require
from nami_jax.nami1k.prompt_set import read_prompts

DRAWS = "from nami_jax.sampling.prompt_pictures import main; main()"


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("checkpoint", None, "a run's workdir or a folder of converted weights", required=True)
    flags.DEFINE_integer("step", None, "which checkpoint of a run; the newest if not given")
    flags.DEFINE_string("preset", None, "of the sampler: fast, balanced, best, released; the model's own if not given")
    flags.DEFINE_string("prompts", None, "file of the prompts; the thousand of NAMI-1K if not given")
    flags.DEFINE_enum("language", "en", ["en", "zh"], "of the texts that the model gets")
    flags.DEFINE_string("tag", None, "draw only the prompts that have this tag")
    flags.DEFINE_string("out", None, "folder of the pictures", required=True)
    flags.DEFINE_integer("seed", 0, "of the noise", lower_bound=0)
    flags.DEFINE_integer("num_images", 1, "pictures of each prompt", lower_bound=1, upper_bound=64)
    flags.DEFINE_integer("batch_size", 32, "pictures drawn at once", lower_bound=1)


def main(argv: list[str]) -> None:
    """Reads the prompts, and has them drawn."""
    del argv
    args = flags.FLAGS
    prompts = read_prompts(Path(args.prompts) if args.prompts else None)
    chosen = {
        prompt.id: prompt.texts().get(args.language)
        for prompt in prompts.prompts
        if args.tag is None or args.tag in prompt.tags
    }
    require(bool(chosen), field="tag", value=args.tag, rule="no prompt has it", remedy="Set one that `describe` lists")
    untold = [name for name, text in chosen.items() if not text]
    require(
        not untold,
        field="language",
        value=args.language,
        rule=f"{len(untold)} prompts have no such text, e.g. {untold[:1]}",
        remedy="Set 'en'",
    )
    wanted = {name: args[name].value for name in ("checkpoint", "step", "preset", "out", "seed", "num_images")}
    wanted |= {"batch_size": args.batch_size, "prompts": chosen}
    wanted["about"] = {"prompt_set": prompts.digest, "language": args.language, "tag": args.tag}
    done = subprocess.run([sys.executable, "-c", DRAWS], input=json.dumps(wanted), text=True, check=False)
    if done.returncode:
        raise ConfigError(f"nothing more was drawn: the drawing process ended with status {done.returncode}, as above.")
