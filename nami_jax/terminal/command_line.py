"""What every command shares: `--help` and `--version`, and one line for a flag that cannot work.

A command defines its flags and hands over its main function, whose own imports wait until the flags are parsed: jax and
the rest take seconds, and `--help` or a mistyped flag is answered without them.
"""

import re
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags

from nami_jax import __version__

UNSET = re.compile(r"flag --\S+=None: Flag (--\S+) must have a value other than None\.?")  # absl's words


class _Help(flags.BooleanFlag):
    """Prints what a command does and its own flags, and ends it."""

    def __init__(self, about: str):
        super().__init__("help", False, "show this help", short_name="?", allow_override=True)
        self._about = about

    def parse(self, argument: Any) -> None:
        if self._parse(argument):
            print(f"{self._about}\n{flags.FLAGS.main_module_help()}")
            sys.exit()


class _Version(flags.BooleanFlag):
    """Prints the version and ends the command."""

    def __init__(self):
        super().__init__("version", False, "print the version")

    def parse(self, argument: Any) -> None:
        if self._parse(argument):
            print(f"nami_jax {__version__}")
            sys.exit()


def parse_flags(
    argv: list[str], *, remedy: str = "Leave it out", positional: int = 0, known_only: bool = False
) -> list[str]:
    """Parses the flags; one that is unknown or cannot work, and a stray argument, end the program with one line.

    Args:
        argv: the program's name and its arguments.
        remedy: what to do instead of a stray argument.
        positional: how many arguments the command takes beside its flags.
        known_only: leave flags that are not the command's own to it.

    Returns:
        The program's name and what is left.
    """
    try:
        rest = flags.FLAGS(argv, known_only)
    except flags.Error as error:
        problem = "; ".join(UNSET.sub(r"\1 is missing", line).strip() for line in str(error).splitlines())
        end = "" if problem.endswith((".", "?")) else "."
        raise SystemExit(f"error: {problem}{end} --help lists the flags.") from error
    if not known_only and len(rest) > 1 + positional:
        raise SystemExit(f"error: {rest[1 + positional]}: is not a flag, and nothing takes it. {remedy}.")
    return rest


def run_command(
    main: Callable[[list[str]], None],
    define_flags: Callable[[], None],
    about: str | None,
    parse: Callable[[list[str]], list[str]] = parse_flags,
) -> None:
    """Runs a command and ends the process if it fails.

    Args:
        main: what the command does, once its flags are parsed; gets the program's name and the other arguments.
        define_flags: defines its flags.
        about: what `--help` says above them.
        parse: parses the flags and returns what is left.
    """
    app.define_help_flags()
    others = set(flags.FLAGS)
    define_flags()
    flags.DEFINE_flag(_Help(about or ""))
    flags.DEFINE_flag(_Version())
    for name in set(flags.FLAGS) - others | {"help"}:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    app.run(main, flags_parser=parse)
