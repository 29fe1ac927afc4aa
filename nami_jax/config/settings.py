"""How settings are declared and checked: each field once, with its type, default, rule and meaning.

`settings` makes a frozen dataclass. pydantic checks types, ranges and choices whenever an instance is made, also by
`dataclasses.replace`. Every error is a `ConfigError` of one form: field = value: rule. remedy.
"""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, dataclass_transform

import pydantic

T = TypeVar("T")

Dtype = Literal["float32", "bfloat16"]  # that a network computes in
# Far above what is ever meant, and low enough that nothing hangs or overflows on the way to an error.
Positive = Annotated[int, pydantic.Field(ge=1, le=10**9)]
Steps = Annotated[int, pydantic.Field(ge=1, le=10**7)]
Width = Annotated[int, pydantic.Field(ge=1, le=2**17)]  # channels of a layer
Depth = Annotated[int, pydantic.Field(ge=0, le=1000)]  # blocks of a network
Layers = Annotated[int, pydantic.Field(ge=1, le=64)]  # of a network that is built layer by layer
Entries = Annotated[int, pydantic.Field(ge=1, le=10**7)]  # of a table
Epsilon = Annotated[float, pydantic.Field(gt=0, lt=1)]
Side = Annotated[int, pydantic.Field(ge=1, le=2**14)]  # of an image, pixels
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]  # jax's own keys hold 32 bits
Rate = Annotated[float, pydantic.Field(gt=0, le=1e30)]  # of learning: larger ones are infinite in float32 at once
Share = Annotated[float, pydantic.Field(ge=0, lt=1)]
MOST_LETTERS = 4096  # of a text
MOST_NESTED = 8  # lists in a value

TYPES = {
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "True or False",
    "string_type": "a string",
    "string_unicode": "text in valid Unicode",
    "tuple_type": "a list",
}


class ConfigError(ValueError):
    """A setting that cannot work. The message names the field, its value, the rule and what to set instead."""


def require(condition: bool, *, field: str, value: Any, rule: str, remedy: str) -> None:
    """Raises `ConfigError` with one uniform message unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{field} = {shown(value)}: {rule}. {remedy}.")


def shown(value: Any) -> str:
    """Returns what a message shows of a value, on one line and without the middle of a long one."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of over 4300 digits, a list of lists of lists ...
        text = f"<{type(value).__name__} too large to show>"
    return text if len(text) <= 300 else f"{text[:240]} ... {text[-40:]}"


def nearest(name: str, names: Sequence[str]) -> str:
    """Returns a hint such as " Did you mean 'steps'?" for an unknown name, or the list of what exists."""
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else f" Known: {', '.join(sorted(names))}."


def field(about: str, *, default: Any, example: Any = None, may_change: bool = False, **rule: Any) -> Any:
    """Declares a field of a section.

    Args:
        about: its meaning, unit and shape, for `configs/README.md`.
        default: what every config starts from; None: nothing.
        example: a value for error messages, where the default is none.
        may_change: whether a run may be continued with another value. By default it may not.
        **rule: what pydantic checks beside the type: ge, gt, le, lt, min_length, max_length.
    """
    examples = [default if example is None else example]
    return pydantic.Field(
        default, description=about, examples=examples, json_schema_extra={"may_change": may_change}, **rule
    )


class Settings:
    """Sections or fields that are built from nested dicts and converted back to them."""

    section: typing.ClassVar[str] = ""  # the name under which fields of this class are set, if there is one
    remedy: typing.ClassVar[str] = ""  # for all fields, where a user does not set them one by one

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Builds and checks settings.

        Args:
            fields: nested mapping, as `ConfigDict.to_dict()` or JSON gives it (lists count as tuples). What is left out
                keeps its default; a section without a default must be given.

        Raises:
            ConfigError: a field is unknown (its nearest names are given), missing, of the wrong type or out of range.
        """
        kinds = sections(cls)
        require(
            isinstance(fields, Mapping) and all(isinstance(name, str) for name in fields),
            field=cls.section or "config",
            value=fields,
            rule="must be fields by name",
            remedy=cls.remedy or "See configs/README.md",
        )
        for name in kinds:
            given = fields.get(name, {})
            require(
                isinstance(given, Mapping),
                field=name,
                value=given,
                rule="must be a section with fields of its own",
                remedy="See configs/README.md",
            )
        return cls(
            **{
                name: kinds[name].from_dict(value) if name in kinds else _tuples(value)
                for name, value in fields.items()
            }
        )

    def __repr__(self) -> str:
        """Names what differs from the defaults; a section that does not is left out."""
        told = []
        for f in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
            value, default = getattr(self, f.name), getattr(f.default, "default", f.default)
            same = repr(value) == f"{type(value).__name__}()" if isinstance(value, Settings) else value == default
            told += [] if same else [f"{f.name}={value!r}"]
        return f"{type(self).__name__}({', '.join(told)})"

    @classmethod
    def pick(cls, fields: Mapping[str, Any]) -> Self:
        """Builds settings as `from_dict` does from what others have written, whose further entries are ignored."""
        known = {f.name for f in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
        return cls.from_dict({name: value for name, value in fields.items() if name in known})

    def to_dict(self) -> dict[str, Any]:
        """Returns nested plain dicts that `from_dict` accepts and JSON can store."""
        return dataclasses.asdict(self)  # pyright: ignore[reportArgumentType]

    def located(self) -> Self:
        """Returns these settings with the folders that a result of theirs depends on as absolute paths."""
        return self


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def settings(section: str = "", remedy: str = "") -> Callable[[type[T]], type[T]]:
    """Returns a decorator that makes a class a frozen, checked dataclass.

    Args:
        section: its fields are set as `section.name`.
        remedy: against every error, where a user does not set the fields one by one.
    """
    config = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, str_max_length=MOST_LETTERS)

    def make(cls: type[T]) -> type[T]:
        made: Any = pydantic.dataclasses.dataclass(frozen=True, repr=False, config=config)(cls)
        made.section, made.remedy = section, remedy
        checked = made.__init__

        @functools.wraps(checked)
        def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:
            try:
                checked(self, *args, **kwargs)
            except pydantic.ValidationError as error:
                raise ConfigError("\n".join(_explanations(made, error.errors()))) from None

        made.__init__ = __init__
        return made

    return make


def _tuples(value: Any, depth: int = 0) -> Any:
    """Returns plain Python values, lists as tuples: what is nested too deep is left to pydantic to refuse."""
    value = value.tolist() if hasattr(value, "tolist") else value  # of NumPy or jax, also single numbers
    if isinstance(value, list | tuple) and depth < MOST_NESTED:
        return tuple(_tuples(part, depth + 1) for part in value)
    return value


def sections(cls: Any) -> dict[str, Any]:
    """Returns the fields of a class that are sections, by name, and the classes of these."""
    return {
        f.name: f.type for f in dataclasses.fields(cls) if isinstance(f.type, type) and issubclass(f.type, Settings)
    }


def _explanations(cls: Any, problems: Sequence[Any]) -> Iterator[str]:
    """Yields a line for each field that pydantic finds wrong, and one for all that are missing."""
    prefix = f"{cls.section}." if cls.section else ""
    missing = [f"{prefix}{problem['loc'][0]}" for problem in problems if problem["type"] == "missing"]
    wrong: dict[Any, Any] = {}
    for problem in problems:
        if problem["type"] != "missing":
            first = wrong.setdefault(problem["loc"][:1], problem)
            if len(problem["loc"]) > len(first["loc"]):  # of a field's types, the one that was meant
                wrong[problem["loc"][:1]] = problem
    yield from (_explain(cls, problem) for problem in wrong.values())
    if missing:
        remedy = cls.remedy or "See configs/README.md, which lists every field"
        yield f"{', '.join(missing)}: {'is' if len(missing) == 1 else 'are'} missing. {remedy}."


def _explain(cls: Any, problem: Any) -> str:
    """Writes one of pydantic's errors in the form of `ConfigError`."""
    kind, location, value, context = problem["type"], problem["loc"], problem["input"], problem.get("ctx", {})
    if kind == "value_error":  # a rule between fields, which says so itself
        return str(context["error"])
    prefix = f"{cls.section}." if cls.section else ""
    name = str(location[0])
    if kind == "unexpected_keyword_argument":
        what, name = "section" if sections(cls) else "field", name[:80]
        return f"{prefix}{name}: no such config {what}.{nearest(name, [f.name for f in dataclasses.fields(cls)])}"
    if name not in cls.__pydantic_fields__:  # an argument too many
        return f"{prefix}{cls.__name__}: {problem['msg']}. See configs/README.md, which lists every field."
    info = cls.__pydantic_fields__[name]
    place = "".join(f"[{part}]" for part in location[1:] if isinstance(part, int))  # the others name types
    remedy = _choices(info.annotation)
    remedy = " or ".join(map(repr, remedy)) if remedy else f"e.g. {(info.examples or [info.default])[0]!r}"
    rule = _rule(kind, context, {} if place else _bounds(info.metadata))
    return f"{prefix}{name}{place} = {shown(value)}: {rule}. {cls.remedy or f'Set {remedy}'}."


def _bounds(metadata: Sequence[Any]) -> dict[str, Any]:
    return {name: getattr(part, name) for part in metadata for name in ("ge", "gt", "le", "lt") if hasattr(part, name)}


def _rule(kind: str, context: Mapping[str, Any], bounds: Mapping[str, Any]) -> str:
    bounds = bounds or {name: context[name] for name in ("ge", "gt", "le", "lt") if name in context}
    if kind in TYPES:
        return f"must be {TYPES[kind]}"
    if bounds.get("le", 0) >= 10_000:  # a bound against what cannot be meant: told to those who meet it
        bounds = {"le": bounds["le"]} if kind == "less_than_equal" else {k: v for k, v in bounds.items() if k != "le"}
    match bounds:
        case {"gt": low, "lt": high}:
            return f"must be between {low} and {high}"
        case {"ge": low, "lt": high}:
            return f"must be in [{low}, {high})"
        case {"ge": low, "le": high}:
            return f"must be in {low}..{high}"
        case {"gt": low, "le": high}:
            return f"must be {f'above {low}' if low else 'positive'} and at most {high:g}"
        case {"ge": low}:
            return f"must be at least {low}" if low else "must not be negative"
        case {"gt": low}:
            return f"must be above {low}" if low else "must be positive"
        case {"le": high}:
            return f"must be at most {high:g}"
    if kind == "literal_error":
        return "is not a valid choice"
    if kind == "string_too_long":
        return f"has more than {context['max_length']} letters"
    if kind == "too_short":
        return f"needs at least {context['min_length']} entries"
    return f"needs at most {context['max_length']} entries" if kind == "too_long" else "has the wrong type"


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Returns the values that a `Literal`, alone or beside None, allows; () for other types."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        inner = [part for part in typing.get_args(annotation) if part is not types.NoneType]
        found = _choices(inner[0])
        return (*found, None) if found else ()
    return typing.get_args(annotation) if typing.get_origin(annotation) is Literal else ()


class Declared(NamedTuple):
    """What is declared of a field."""

    name: str
    type: Any
    default: Any
    about: str
    may_change: bool
    choices: tuple[Any, ...]  # () where the type alone says what is allowed


def declared(cls: Any) -> Iterator[Declared]:
    """Yields the fields of a section, in their order."""
    for name, info in cls.__pydantic_fields__.items():
        extra = info.json_schema_extra or {}
        yield Declared(
            name,
            info.annotation,
            info.default,
            info.description or "",
            bool(extra.get("may_change")),
            _choices(info.annotation),
        )


def choices(cls: Any, name: str) -> list[str]:
    """Returns the values that a field allows, for a command's flags."""
    return [value for found in declared(cls) if found.name == name for value in found.choices if value is not None]


def fixed_fields(cls: Any) -> dict[str, tuple[str, ...]]:
    """Returns section -> the fields that may not change when a run continues: all without `may_change`."""
    return {
        name: tuple(found.name for found in declared(section) if not found.may_change)
        for name, section in sections(cls).items()
    }


def parse_steps(steps: Sequence[str]) -> tuple[int, ...]:
    """Reads a flag such as "10,10,10", as absl splits it; raises `ConfigError` unless all are whole numbers."""
    require(
        bool(steps) and all(step.strip().isdecimal() and len(step) < 100 for step in steps),
        field="steps",
        value=",".join(steps),
        rule="must be whole numbers",
        remedy="Set e.g. --steps 10,10,10",
    )
    return tuple(map(int, steps))


def parse_scales(scales: Sequence[str]) -> float | tuple[float, ...]:
    """Reads a flag such as "3" or "3,1,1", as absl splits it; raises `ConfigError` unless all are numbers."""
    numbers = _numbers("guidance_scale", scales, "Set one number, or one per stage: e.g. --guidance_scale=3,1,1")
    return numbers[0] if len(numbers) == 1 else numbers


def parse_interval(ends: Sequence[str]) -> tuple[float, ...]:
    """Reads a flag such as "0.2,0.9", as absl splits it; raises `ConfigError` unless all are numbers."""
    return _numbers("guidance_interval", ends, "Set e.g. --guidance_interval=0.2,0.9")


def parse_taus(taus: str) -> tuple[tuple[float, ...], ...]:
    """Reads a flag such as "1,0.5,0;1,0.4,0;1,0"; raises `ConfigError` unless all are numbers."""
    remedy = 'Set the local times of each stage, e.g. --taus="1,0.5,0;1,0.4,0;1,0"'
    return tuple(_numbers("taus", stage.split(","), remedy) for stage in taus.split(";"))


def _numbers(name: str, texts: Sequence[str], remedy: str) -> tuple[float, ...]:
    try:
        require(bool(texts), field=name, value="", rule="must be numbers", remedy=remedy)
        return tuple(map(float, texts))
    except ValueError:
        raise ConfigError(f"{name} = {shown(','.join(texts))}: must be numbers. {remedy}.") from None
