"""NAMI-1K, a thousand prompts to compare text-to-image models by: `python -m nami_jax.nami1k COMMAND --help`."""

import importlib
import sys
from functools import partial
from typing import NoReturn

from nami_jax.config import ConfigError, nearest
from nami_jax.files.disk import explain
from nami_jax.terminal.command_line import parse_flags, run_command

# Command -> its module, with `define_flags` and `main`, and how many arguments it takes beside its flags.
COMMANDS = {
    "describe": ("nami_jax.nami1k.describe", 0),
    "audit": ("nami_jax.nami1k.audit", 0),
    "generate": ("nami_jax.nami1k.generate", 0),
    "check": ("nami_jax.nami1k.check", 1),
    "serve": ("nami_jax.nami1k.serve", 0),
    "report": ("nami_jax.nami1k.report_votes", 0),
    "simulate": ("nami_jax.nami1k.simulate", 0),
}


def cli() -> None:
    """Runs the command that the first argument names, with the arguments behind it."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-?", "-h", "--help"):
        print(f"{__doc__}\n\nCommands: {', '.join(COMMANDS)}")
        return
    if name not in COMMANDS:
        fail(f"{name}: no such command.{nearest(name, list(COMMANDS))}")
    module, positional = COMMANDS[name]
    del sys.argv[1]
    # Not at the top: each command has packages of its own, and most need a moment to be imported.
    command = importlib.import_module(module)

    def main(argv: list[str]) -> None:
        try:
            command.main(argv)
        except ConfigError as error:
            fail(str(error))
        except OSError as error:
            fail(explain(error))

    run_command(main, command.define_flags, command.__doc__, partial(parse_flags, positional=positional))


def fail(message: str) -> NoReturn:
    """Prints what is wrong and ends with status 2: 1 says that an audit or check has found something."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    cli()
