"""How settings are checked: one form of error, and dataclasses made from nested dicts."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import dacite


class ConfigError(ValueError):
    """A setting that cannot work. The message names the field, its value, the rule and what to set instead."""


def require(condition: bool, *, field: str, value: Any, rule: str, remedy: str) -> None:
    """Raises `ConfigError` with one uniform message unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{field} = {value!r}: {rule}. {remedy}.")


def nearest(name: str, names: Sequence[str]) -> str:
    """Returns a hint such as " Did you mean 'steps'?" for an unknown name, or the list of what exists."""
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else f" Known: {', '.join(sorted(names))}."


class Settings:
    """A dataclass of sections that is made from nested dicts and turned back into them."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Builds and checks the whole configuration.

        Args:
            fields: nested mapping with the sections of this class, as `ConfigDict.to_dict()` or JSON gives it (lists
                count as tuples). Sections that have defaults may be left out.

        Raises:
            ConfigError: a field is unknown (its nearest names are given), missing, of the wrong type or out of range.
        """
        sections = {f.name: f.type for f in dataclasses.fields(cls) if dataclasses.is_dataclass(f.type)}  # pyright: ignore[reportArgumentType]
        for name, section in sections.items():
            given = fields.get(name, {})
            require(
                isinstance(given, Mapping),
                field=name,
                value=given,
                rule="must be a section of fields",
                remedy="See configs/base.py",
            )
            known = [f.name for f in dataclasses.fields(section)]  # pyright: ignore[reportArgumentType]
            for field in given:
                if field not in known:
                    raise ConfigError(f"{name}.{field}: no such config field.{nearest(field, known)}")
        try:
            return dacite.from_dict(cls, fields, dacite.Config(strict=True, cast=[tuple]))  # pyright: ignore[reportArgumentType]
        except dacite.UnexpectedDataError as error:
            unknown = min(map(str, error.keys))
            raise ConfigError(f"{unknown}: no such config section.{nearest(unknown, list(sections))}") from error
        except (dacite.WrongTypeError, dacite.MissingValueError) as error:
            raise ConfigError(f"{error}. Compare with configs/base.py, which lists every field.") from error

    def to_dict(self) -> dict[str, Any]:
        """Returns nested plain dicts that `from_dict` takes back and JSON can hold."""
        return dataclasses.asdict(self)  # pyright: ignore[reportArgumentType]


def parse_steps(steps: Sequence[str]) -> tuple[int, ...]:
    """Reads a flag such as "10,10,10", as absl splits it; raises `ConfigError` unless all are whole numbers."""
    whole = bool(steps) and all(step.strip().isdecimal() for step in steps)
    require(
        whole, field="steps", value=",".join(steps), rule="must be whole numbers", remedy="Set e.g. --steps 10,10,10"
    )
    return tuple(map(int, steps))
