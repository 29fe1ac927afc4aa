"""Draws pictures with a trained model: `python -m nami_jax.sample --prompt "a red apple"`.

Without --checkpoint that is `emoji`, which comes with nami_jax. It knows emoji by their names in four styles: "a red
apple, noto style", or twemoji, glossy fluent, flat fluent; a prompt that names none is drawn in noto style.

Writes one PNG per picture and, for more than one, a captioned `grid.png`; earlier ones are replaced only with
--overwrite. Prompt, seed, steps and checkpoint are stored in each PNG's metadata.

With --image it begins from a picture: redrawn from --strength on, filled in where --mask is white, or changed from what
--edit_from says it shows to the prompt.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from nami_jax.config import PresetPrompt, preset_prompt, require
from nami_jax.terminal.command_line import parse_flags, run_command
from nami_jax.terminal.sampler_flags import define_model_flags, define_sampler_flags, given_mesh, given_settings

if TYPE_CHECKING:
    from PIL import Image

    from nami_jax.sampling.pipeline import NamiPipeline

SHIPPED = "emoji"  # whose captions in training all named a style: what has none it draws badly
STYLES, STYLE_SUFFIX = ("twemoji", "noto", "fluent"), ", noto style"
# Flags that are arguments of the call by the same name.
PASSED_ON = "preset preset_prompt image strength mask height width seed num_images batch_size".split()


def define_flags() -> None:
    """Defines the command's flags."""
    define_model_flags(checkpoint=SHIPPED)
    flags.DEFINE_bool("keep_encoder", True, "--nokeep_encoder frees the text encoder's memory before sampling")
    flags.DEFINE_multi_string("prompt", None, "what to draw; repeat it for several", required=True)
    flags.DEFINE_string("negative_prompt", None, "what guidance steers away from; the preset's, if it has one")
    flags.DEFINE_bool("preset_prompt", True, "--nopreset_prompt leaves out the texts that --preset=released adds")
    define_sampler_flags()
    flags.DEFINE_string("image", None, "picture to begin from; cut to the size that is drawn")
    flags.DEFINE_float(
        "strength", None, "global time, 1 being noise, from which --image is redrawn; 0.75, with a mask 1, if not given"
    )
    flags.DEFINE_string("mask", None, "picture that is white where --image is to be filled in; the rest stays as it is")
    flags.DEFINE_string("edit_from", None, "what --image shows: it is edited by what differs in the prompt (FlowEdit)")
    flags.DEFINE_multi_string("lora", None, "LoRA run or adapter file to add to the network; repeat it for several")
    flags.DEFINE_multi_float("lora_scale", [], "of each --lora, in their order; 1 if none is given")
    flags.DEFINE_bool("stages", False, "also save what each stage ended in")
    flags.DEFINE_integer("height", None, "pixels; as trained if not given")
    flags.DEFINE_integer("width", None, "pixels; as trained if not given")
    flags.DEFINE_integer("seed", 0, "seed of the noise")
    flags.DEFINE_integer("num_images", 1, "pictures per prompt")
    flags.DEFINE_integer("batch_size", 32, "pictures drawn at once")
    flags.DEFINE_string("out", "out", "folder for the PNGs")
    flags.DEFINE_bool("overwrite", False, "replace pictures of the same names; if not, new ones get a number")


def file_name(number: int, prompt: str, seed: int) -> str:
    """Returns e.g. "000-red-apple-seed0.png"."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:40]
    return f"{number:03d}-{words}-seed{seed}.png"


def in_a_style(prompts: Sequence[str]) -> list[str]:
    """Returns prompts for the model that comes with nami_jax: those that name no style get one, which is printed."""
    styled = [p if not p.strip() or any(style in p.lower() for style in STYLES) else p + STYLE_SUFFIX for p in prompts]
    if styled != list(prompts):
        print(f"{STYLE_SUFFIX!r} is added to prompts that name no style; --checkpoint={SHIPPED} leaves it out")
    return styled


def save_pictures(
    pictures: "Sequence[Image.Image]", prompts: Sequence[str], out: Path, about: dict, overwrite: bool = False
) -> None:
    """Saves each picture, and a grid of all if there are several, with `about` and its prompt as metadata.

    Pictures that are there already are replaced only if `overwrite`; otherwise the new ones' names get a number.
    """
    from nami_jax.sampling.pictures import grid, save_beside, save_png

    def save(picture: "Image.Image", name: str, **of_it: object) -> None:
        path = out / name
        if overwrite:
            save_png(picture, path, of_it | about)
        else:
            path = save_beside(picture, path, of_it | about)
        print(path)

    for i, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        save(picture, file_name(i, prompt, about["seed"]), prompt=prompt)
    if len(pictures) > 1:
        save(grid(prompts, [pictures]), "grid.png", prompts=prompts)


def save_stages(stages: "Sequence[Sequence[Image.Image]]", prompts: Sequence[str], out: Path, seed: int) -> None:
    """Saves for each picture what its stages ended in, coarsest first, beside one another."""
    from nami_jax.sampling.pictures import grid, save_beside

    for i, (pictures, prompt) in enumerate(zip(zip(*stages, strict=True), prompts, strict=True)):
        sizes = [f"{picture.width}x{picture.height}" for picture in pictures]
        sheet = grid(sizes, [pictures], prompt)
        print(save_beside(sheet, out / file_name(i, prompt, seed).replace(".png", "-stages.png"), {"prompt": prompt}))


def load_adapters(pipe: "NamiPipeline", paths: Sequence[str], scales: Sequence[float]) -> None:
    """Adds the adapters that the flags name."""
    require(
        not scales or len(scales) == len(paths),
        field="lora_scale",
        value=list(scales),
        rule=f"--lora names {len(paths)} adapters",
        remedy="Give one for each, in their order, or none",
    )
    for i, path in enumerate(paths):
        pipe.load_lora(path, scales[i] if scales else 1.0, name=f"{i + 1}: {path}")


def draw(pipe: "NamiPipeline", args: flags.FlagValues, given: Mapping[str, Any]) -> None:
    """Draws what the flags ask for, with the sampler's settings in `given`, and saves it."""
    from nami_jax.files.output_folder import output_folder
    from nami_jax.sampling.picture_settings import about_pictures

    settings = pipe.settings(args.preset, **given)
    texts = preset_prompt(args.preset) if args.preset_prompt else PresetPrompt()
    negative = texts.negative if args.negative_prompt is None else args.negative_prompt
    if texts.suffix:
        print(
            f"--preset={args.preset} adds {texts.suffix!r} to each prompt, and its negative prompt is "
            f"{texts.negative!r}; --nopreset_prompt leaves both out"
        )
    asked: dict[str, Any] = {name: args[name].value for name in PASSED_ON}
    asked |= {"edit": args.edit_from, "negative_prompt": negative}
    about = about_pictures(pipe, settings, asked)
    wanted = in_a_style(args.prompt) if args["checkpoint"].using_default_value else args.prompt
    prompts, out = [prompt for prompt in wanted for _ in range(args.num_images)], Path(args.out)
    with output_folder(out, field="out"):
        drawn = pipe(wanted, **settings.to_dict(), **asked, progress=True, return_stages=args.stages)
        save_pictures(drawn[-1] if args.stages else drawn, prompts, out, about, args.overwrite)
        if args.stages:
            save_stages(drawn, prompts, out, args.seed)


def main(argv: list[str]) -> None:
    """Loads the checkpoint, draws and saves."""
    # Not at the top: see nami_jax/terminal/command_line.py.
    from nami_jax.sampling.pipeline import NamiPipeline
    from nami_jax.sampling.pipeline_command import pipeline_command

    del argv
    args = flags.FLAGS
    with pipeline_command():
        given = given_settings(args)
        pipe = NamiPipeline.from_pretrained(
            args.checkpoint,
            step=args.step,
            dtype=args.dtype,
            keep_encoder=args.keep_encoder,
            mesh=given_mesh(args),
        )
        load_adapters(pipe, args.lora or [], args.lora_scale)
        draw(pipe, args, given)


def cli() -> None:
    """Runs the command."""
    run_command(main, define_flags, __doc__, functools.partial(parse_flags, remedy="Pass prompts with --prompt"))


if __name__ == "__main__":
    cli()
