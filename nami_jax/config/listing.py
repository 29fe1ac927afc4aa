"""All declared fields as an ml_collections config, for `configs/*.py`, and as a page, `configs/README.md`."""

import types
import typing
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from nami_jax.config import autoencoder_run, flow_run
from nami_jax.config.settings import Declared, declared, sections

RUNS = {flow_run.TASK: flow_run.Config, autoencoder_run.TASK: autoencoder_run.AutoencoderRun}  # by a config's `task`


def base_config(kind: Any) -> ConfigDict:
    """Returns the defaults of a kind of run, as a `ConfigDict` whose fields keep their types.

    Args:
        kind: `Config`, `AutoencoderRun`, ...
    """
    config = ConfigDict()
    for name, section in sections(kind).items():
        config[name] = ConfigDict({f.name: _empty(f) if f.default is None else f.default for f in declared(section)})
    return config


def declare_types(config: ConfigDict) -> None:
    """Gives the fields of a run's config that are None their declared types, so that they can be set to others."""
    kind = RUNS.get(str(config.get("task", flow_run.TASK)))
    for name, section in sections(kind).items() if kind else ():
        values: Any = config.get(name)
        for field in declared(section) if isinstance(values, ConfigDict) else ():
            if field.name in values and values[field.name] is None and types.NoneType in typing.get_args(field.type):
                values[field.name] = _empty(field)


def unset_section(kind: Any) -> ConfigDict:
    """Returns the fields of a section, all None until they are set to a value of their type.

    Args:
        kind: `ModelConfig`, `TextConfig`, ...
    """
    return ConfigDict(
        {f.name: _empty(f) if f.default is None else placeholder(type(f.default)) for f in declared(kind)}
    )


def _empty(field: Declared) -> Any:
    held = next(part for part in typing.get_args(field.type) if part is not types.NoneType)
    held = typing.get_args(held)[0] if typing.get_origin(held) is typing.Annotated else held
    held = type(field.choices[0]) if field.choices else held
    return placeholder(typing.get_origin(held) or held)


def page(kinds: dict[str, Any]) -> str:
    """Returns every field of several kinds of run in Markdown tables.

    Args:
        kinds: heading -> kind of run.
    """
    return "\n".join(line for heading, kind in kinds.items() for line in _kind_lines(heading, kind)) + "\n"


def _kind_lines(heading: str, kind: Any) -> Iterator[str]:
    yield f"## {heading}\n"
    for name, section in sections(kind).items():
        yield f"### `{name}`: {section.__doc__.strip().splitlines()[0].rstrip('.')}\n"
        yield "| field | default | meaning | may change |"
        yield "|---|---|---|---|"
        for field in declared(section):
            choice = f" One of {', '.join(f'`{value!r}`' for value in field.choices)}." if field.choices else ""
            may = "yes" if field.may_change else ""
            yield f"| `{field.name}` | `{field.default!r}` | {field.about}.{choice} | {may} |"
        yield ""
