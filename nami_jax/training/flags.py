"""The flags of a training run."""

from absl import app, flags
from ml_collections import config_flags

from nami_jax.parallel import processes as distributed


def define_flags() -> None:
    """Defines the flags."""
    config_flags.DEFINE_config_file("config", None, "file of the run's config, e.g. configs/emoji_tiny.py")
    flags.DEFINE_string("workdir", None, "folder to keep the run in, e.g. runs/emoji_tiny", required=True)
    flags.DEFINE_integer("stop_after", None, "save and stop once this many steps are done; the same command continues")
    flags.DEFINE_string("wandb", None, "Weights & Biases project to send metrics and pictures to")
    flags.DEFINE_string("profile", None, "first and last step to trace with jax's profiler, e.g. 10:15")
    flags.DEFINE_bool("dry_run", False, "run two steps in a temporary folder, report what they took, leave nothing")
    flags.mark_flag_as_required("config")
    distributed.define_flags()


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags; a config file or a field of it that does not exist ends the program without a traceback."""
    try:
        arguments = app.parse_flags_with_usage(argv)
        flags.FLAGS.config.to_dict()  # a file that could not be loaded is reported at its first use
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        reason = " ".join(str((error.__cause__ or error).args[-1]).split())
        raise SystemExit(f"error: --config: {reason}\nconfigs/README.md lists every field of a config.") from error
    if len(arguments) > 1:
        raise app.UsageError(
            f"unknown argument {arguments[1]!r}: set fields of the config with e.g. --config.train.steps=9"
        )
    return arguments
