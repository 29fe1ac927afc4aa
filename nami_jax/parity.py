"""Checks this machine against golden vectors of the released NAMI: `python -m nami_jax.parity FOLDER`.

FOLDER holds `config.json`, `transformer.safetensors`, `bridge_flow.safetensors` and `vectors.safetensors`, as
`tests/golden/nami_tiny` does: one forward pass per stage and a complete guided sampling run on the released grid with
the bridge, at any sizes. Prints each vector's relative error and fails above the tolerance.
"""

import functools
from pathlib import Path

from absl import flags, logging

from nami_jax.config import ConfigError
from nami_jax.files.disk import explain
from nami_jax.terminal.command_line import parse_flags, run_command


def main(argv: list[str]) -> None:
    """Prints the table of errors; exits with 1 above the tolerance."""
    # Not at the top: jax and the rest take seconds, and `--help` or a mistyped flag is answered without them.
    import jax

    from nami_jax.sampling.golden_vectors import compare
    from nami_jax.weights import WeightsError

    if len(argv) != 2:
        raise SystemExit("error: the folder is missing. Pass one, e.g. tests/golden/nami_tiny.")
    logging.set_verbosity(logging.WARNING)
    failed = 0
    try:
        for name, error in compare(Path(argv[1])):
            fits = error <= flags.FLAGS.tolerance  # false also where the error is NaN
            failed += not fits
            print(f"{error:10.2e}  {name}{'' if fits else '  ABOVE THE TOLERANCE'}")
    except (ConfigError, WeightsError) as error:
        raise SystemExit(f"error: {error}") from error
    except OSError as error:
        raise SystemExit(f"error: {explain(error)}") from error
    print(f"{jax.devices()[0].device_kind}: {failed} vectors above {flags.FLAGS.tolerance:g}")
    if failed:
        raise SystemExit(1)


def define_flags() -> None:
    """Defines the command's flag."""
    flags.DEFINE_float("tolerance", 2e-5, "largest relative error")


def cli() -> None:
    """Runs the command."""
    run_command(main, define_flags, __doc__, functools.partial(parse_flags, remedy="Pass one folder", positional=1))


if __name__ == "__main__":
    cli()
