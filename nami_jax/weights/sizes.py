"""A network's sizes from the config.json that is released beside its weights."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from nami_jax.weights.tensors import WeightsError

T = TypeVar("T")


def read_sizes(kind: type[T], fields: Mapping[str, Any], network: str) -> T:
    """Picks the fields of a dataclass of positive numbers out of a parsed config.json, whose other entries are ignored.

    Args:
        kind: the dataclass; each field is an int or a float.
        fields: what config.json holds.
        network: its name, for messages.

    Raises:
        WeightsError: a field without a default is missing, or a value is not a positive number of its type.
    """
    remedy = "Take the checkpoint's own config.json."
    known = dataclasses.fields(kind)  # pyright: ignore[reportArgumentType]
    missing = [f.name for f in known if f.default is dataclasses.MISSING and f.name not in fields]
    if missing:
        raise WeightsError(f"{', '.join(missing)}: not in the {network} config. {remedy}")
    picked = {f.name: fields[f.name] for f in known if f.name in fields}
    for field in known:
        value = picked.get(field.name, field.default)
        fits = type(value) is int or (field.type is float and isinstance(value, float) and math.isfinite(value))
        if not fits or value <= 0:
            what = "an integer" if field.type is int else "a number"
            raise WeightsError(f"{field.name} = {value!r}: must be {what} above 0. {remedy}")
    return kind(**picked)
