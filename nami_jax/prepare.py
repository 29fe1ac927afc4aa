"""Prepares pictures and text states to train on: `python -m nami_jax.prepare --config configs/… --source …`.

The config is that of the training run: a flow of latents, a flow of pixels, or an autoencoder. The source is a folder
of images with a `metadata.jsonl`, a `metadata.csv` or a text beside each, WebDataset tars or the name of a
tensorflow-datasets set; by default the set that the config names. The same command continues an interrupted run. Flags
that are not its own are passed to Apache Beam: `--runner=DataflowRunner --project=…`, or `--direct_num_workers=4
--direct_running_mode=multi_processing` here. Workers on other machines need this package and, under the same paths,
the source and the folders that the config names.

The first process that uses an accelerator takes most of its memory. Give each accelerator one worker; several on one,
or any beside this command's own process, need `XLA_PYTHON_CLIENT_PREALLOCATE=false` in the environment.
"""

import dataclasses
from typing import Any

from absl import flags, logging

from nami_jax.config import ConfigError, require
from nami_jax.config.settings import declared
from nami_jax.preparation.options import Options, parse_held_out
from nami_jax.terminal.command_line import parse_flags, run_command
from nami_jax.terminal.config_flag import define_config_flag


def define_flags() -> None:
    """Defines the command's flags."""
    define_config_flag("config of the run to prepare for: a file, or the name of one that comes with nami_jax")
    flags.DEFINE_string(
        "source",
        None,
        "folder of images and captions, WebDataset tars, or tensorflow-datasets name; default: the config's data.name",
    )
    flags.DEFINE_string("out", None, "folder to prepare into; the config's data.prepared if not given")
    define = {int: flags.DEFINE_integer, float: flags.DEFINE_float}
    for option in declared(Options):
        if option.name == "held_out":
            flags.DEFINE_string(option.name, str(option.default), option.about)
        elif option.choices:
            flags.DEFINE_enum(option.name, option.default, option.choices, option.about)
        else:
            define[type(option.default)](option.name, option.default, option.about)


def parse_own_flags(argv: list[str]) -> list[str]:
    """Parses the command's own flags, in any order among Beam's, and returns what is left."""
    flags.FLAGS.set_gnu_getopt(True)
    return parse_flags(argv, known_only=True)


def main(argv: list[str]) -> None:
    """Prepares as the flags say and prints a summary."""
    # Not at the top: jax and the rest take seconds, and `--help` or a mistyped flag is answered without them.
    from nami_jax.preparation.errors import PreparationError
    from nami_jax.preparation.finding import KINDS
    from nami_jax.preparation.orchestration import prepare
    from nami_jax.training.tasks import read_task
    from nami_jax.weights import WeightsError

    logging.set_verbosity(logging.WARNING)
    args: Any = flags.FLAGS
    own = [field.name for field in dataclasses.fields(Options)]
    try:
        cfg = read_task(args.config.to_dict()).cfg
        given: dict[str, Any] = {name: getattr(args, name) for name in own}
        given["held_out"] = parse_held_out(args.held_out)
        options = Options(**given)
        out = args.out or cfg.data.prepared
        require(
            bool(out),
            field="data.prepared",
            value=out,
            rule="names no folder to prepare into",
            remedy="Set it, e.g. --config.data.prepared=data/my_images, or pass --out",
        )
        source = args.source or cfg.data.name
        require(
            bool(source),
            field="source",
            value=source,
            rule="neither --source nor the config's data.name is set",
            remedy=KINDS,
        )
        print(prepare(cfg, source, out, options, argv[1:], [*own, "config", "source", "out"]))
    except (ConfigError, PreparationError, WeightsError, ModuleNotFoundError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    if out != cfg.data.prepared:
        print(f"To train on it, set --config.data.prepared={out}")


def cli() -> None:
    """Runs the command."""
    run_command(main, define_flags, __doc__, parse_own_flags)


if __name__ == "__main__":
    cli()
