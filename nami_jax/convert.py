"""Makes a folder to sample from anywhere: `python -m nami_jax.convert --from RUN_OR_RELEASE --to FOLDER`.

RUN is the workdir of a training run, RELEASE a NAMI for PyTorch. FOLDER can be sampled from (`--checkpoint FOLDER`) and
trained on (`--config.train.init_from=FOLDER`). `--export` writes a run or such a folder in the layout of a release.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging

from nami_jax.config import ConfigError, require
from nami_jax.terminal.command_line import parse_flags, run_command

if TYPE_CHECKING:
    from nami_jax.release.conversion import Converted


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "from",
        None,
        "a run's workdir or a release; with --export, a run's workdir or a converted folder",
        required=True,
    )
    flags.DEFINE_string("to", None, "the folder to create", required=True)
    flags.DEFINE_bool("export", False, "write a converted folder, or a training run, in the layout of a release")
    flags.DEFINE_integer("step", None, "which checkpoint of a run; the newest if not given")
    flags.DEFINE_enum(
        "format",
        "released",
        ["released", "safetensors"],
        "format of exported weights: as released (pickles need torch), or safetensors",
    )
    flags.DEFINE_enum(
        "dtype",
        None,
        ["bfloat16", "float16"],
        "type that the weights of a run are stored in, at half the size; float32, as trained, if not given",
    )
    flags.DEFINE_bool("allow_missing", False, "go on without an autoencoder, text encoder or tokeniser that is absent")


def report(converted: "Converted", target: Path) -> str:
    """Says what was converted and what was not."""
    lines = [f"{target}: " + ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in converted.sizes.items())]
    lines += [
        f"left out of {name}: {size / 1e9:.2f} GB that are not part of its encoder"
        for name, size in converted.left_out.items()
    ]
    if converted.absent:
        lines.append(
            f"missing: {', '.join(converted.absent)}. Before sampling, copy them from a folder that has them, which "
            "this command makes of a whole release or of a run whose parts are where its config says"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Converts or exports."""
    # Not at the top: jax and the rest take seconds, and `--help` or a mistyped flag is answered without them.
    from safetensors import SafetensorError

    from nami_jax.checkpoints.checkpoint import CheckpointError
    from nami_jax.checkpoints.orbax import mute_orbax
    from nami_jax.release.conversion import convert_release
    from nami_jax.release.exporting import export_release, export_run
    from nami_jax.release.run_conversion import convert_run
    from nami_jax.weights import WeightsError

    del argv
    logging.set_verbosity(logging.WARNING)
    mute_orbax()
    args = flags.FLAGS
    source, target = (Path(str(args[name].value)) for name in ("from", "to"))
    is_run = (source / "checkpoints").is_dir()
    try:
        require(
            is_run or args.step is None,
            field="step",
            value=args.step,
            rule=f"{source} is no run, which has steps",
            remedy="Leave it out",
        )
        require(
            args.dtype is None or (is_run and not args.export),
            field="dtype",
            value=args.dtype,
            rule="is for converting a run",
            remedy="Leave it out: what a release or a folder stores keeps its type",
        )
        if args.export:
            as_safetensors = args.format == "safetensors"
            if is_run:
                export_run(source, target, step=args.step, as_safetensors=as_safetensors)
            else:
                export_release(source, target, as_safetensors=as_safetensors)
            print(target)
        elif is_run:
            converted = convert_run(source, target, step=args.step, dtype=args.dtype, allow_missing=args.allow_missing)
            print(report(converted, target))
        else:
            print(report(convert_release(source, target, allow_missing=args.allow_missing), target))
    except (CheckpointError, ConfigError, WeightsError, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    except OSError as error:
        raise SystemExit(f"error: {error}. Use readable and writable folders, on a disk with enough space.") from error
    except SafetensorError as error:  # found during conversion: it was intact when it was listed
        raise SystemExit(f"error: a file in {source} is damaged: {error}. Fetch it again.") from error


def cli() -> None:
    """Runs the command."""
    parse = functools.partial(parse_flags, remedy="Pass folders with --from and --to")
    run_command(main, define_flags, __doc__, parse)


if __name__ == "__main__":
    cli()
