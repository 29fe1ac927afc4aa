"""`--config`: a file, or the name of one that comes with nami_jax; and the flags of its fields."""

import contextlib
import difflib
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser
from ml_collections.config_flags.tuple_parser import TupleParser

from nami_jax.config import nearest
from nami_jax.config.listing import declare_types

CONFIGS = Path(__file__).parents[1] / "configs"
SHARED = ("base", "presets")  # what the others take values from
# What a config file may raise that is not right.
FAULTS = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
OVERRIDE = re.compile(r"--?(?:no)?config\.([\w.]+)")


def define_config_flag(about: str) -> None:
    """Defines `--config`, which is required, and the flags of its fields; None can be given for each of these."""
    config_flags.DEFINE_config_file("config", None, about)
    flag = flags.FLAGS["config"]
    flag.parser, flag.default_as_str = _ConfigParser("config"), ""
    for kind, noun, parser in (
        (int, "an integer", flags.IntegerParser()),
        (float, "a number", flags.FloatParser()),
        (str, "a text", flags.ArgumentParser()),
        (tuple, "a list such as '(1, 2, 3)'", TupleParser()),
    ):
        config_flags.register_flag_parser_for_type(kind, _OrNone(parser, noun))
    flags.mark_flag_as_required("config")


def find_config(name: str) -> Path:
    """Returns the file that `--config` names: a path, or the name of a config that comes with nami_jax.

    Raises:
        flags.Error: there is no such file or config.
    """
    with contextlib.suppress(OSError):  # a name too long for a file
        if Path(name).is_file():
            return Path(name)
    ours = {path.stem: path for path in CONFIGS.glob("*.py") if path.stem not in SHARED}
    found = ours.get(name.removeprefix("configs/").removesuffix(".py"))
    if found is None:
        short = name[:200]
        raise flags.Error(f"--config={short}: is neither a file nor the name of a config.{nearest(short, list(ours))}")
    return found


def config_name(argument: str) -> str:
    """Returns what a run of a config is called by default: "emoji_tiny" for "configs/emoji_tiny.py"."""
    path, _, variant = argument.partition(":")
    return "_".join(filter(None, (Path(path).stem, variant)))


class _ConfigParser(ConfigFileFlagParser):
    """Loads a config, gives its fields their declared types, and checks the names of those that are set."""

    def parse(self, path: str) -> ConfigDict:
        name, *variant = path.split(":", 1)
        file = str(find_config(name))
        try:
            config: Any = super().parse(":".join([file, *variant]))
            if not isinstance(config, ConfigDict):
                config.to_dict()  # one that could not be loaded says why
        except FAULTS as error:
            cause = error.__cause__ or error.__context__ or error
            own = [frame for frame in traceback.extract_tb(cause.__traceback__) if frame.filename == file]
            place = f" (line {own[-1].lineno})" if own else ""
            raise flags.Error(f"--config={path}: {type(cause).__name__}: {cause}{place}") from error
        declare_types(config)
        for word in sys.argv[1:]:
            if match := OVERRIDE.match(word):
                _require_field(config, match[1])
        return config


class _OrNone(flags.ArgumentParser):
    """Reads None as nothing, and the rest as another parser does; the declarations say where None is allowed."""

    def __init__(self, parser: flags.ArgumentParser, noun: str):
        self._parser, self._noun = parser, noun

    def parse(self, argument: Any) -> Any:
        try:
            return None if argument == "None" else self._parser.parse(argument)
        except (TypeError, ValueError) as error:
            raise ValueError(f"must be {self._noun}") from error

    def flag_type(self) -> str:
        return self._parser.flag_type()


def _require_field(config: ConfigDict, path: str) -> None:
    section, _, name = path.partition(".")
    if section not in config:
        homes = [f"{other}.{section}" for other in config if section in _names(config[other])]
        hint = f" Did you mean {' or '.join(homes)}?" if homes else nearest(section, list(config))
        raise flags.Error(f"--config.{path}: there is no section {section!r} in the config.{hint}")
    if name and name not in _names(config[section]):
        close = difflib.get_close_matches(name, _names(config[section]), n=2)
        homes = [f"{other}.{name}" for other in config if not close and name in _names(config[other])]
        hint = f" Did you mean {' or '.join(homes)}?" if homes else nearest(name, _names(config[section]))
        raise flags.Error(f"--config.{path}: there is no field {name!r} in section {section!r}.{hint}")


def _names(section: Any) -> Sequence[str]:
    return list(section) if isinstance(section, ConfigDict) else []
