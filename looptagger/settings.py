"""Settings as users give them: YAML in, unknown keys refused, `a.b=value` overrides."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from looptagger.config import Settings
from looptagger.errors import UserError

S = TypeVar("S", bound=Settings)

INSTEAD = {
    "tuple_type": "is a list, [a, b, ...]; what is in it already can be named by number, from 0",
    "missing": "is lacking",
}
"""Pydantic's words for some faults, in the user's."""


def load(kind: type[S], file: Path | None = None, overrides: Sequence[str] = ()) -> S:
    """Settings of `kind` from a YAML file and `a.b=value` overrides, later ones first in force.

    Raises UserError that names the file or the override, the key and what is allowed.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = _read_yaml(file)
        _validated(kind, values, str(file))
    for override in overrides:
        _apply(values, override)
    return _validated(kind, values, "--set " + " --set ".join(overrides) if overrides else str(file))


def _over(default: Any, value: Any) -> Any:
    """A default, and over it what is named, group by group: a group's own defaults may differ from its kind's.

    A list of groups is named as a whole, or some of it by number.
    """
    if value is None and isinstance(default, dict):
        return default  # a group of which all is commented out
    if not isinstance(value, dict):
        return value
    if isinstance(default, list | tuple) and value and value.keys() <= set(map(str, range(len(default)))):
        return [_over(each, value.get(str(number), {})) for number, each in enumerate(default)]
    if isinstance(default, dict):
        return {**default, **{key: _over(default.get(key), each) for key, each in value.items()}}
    return value


def _defaults(kind: type[Settings]) -> dict[str, Any]:
    """What settings of a kind are, group by group, where nothing is said. What follows from others is left out."""
    fixed = {name: field.default for name, field in kind.model_fields.items() if field.default_factory is None}
    return kind(**fixed).model_dump(exclude_unset=True)


def _validated(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    try:
        return kind.model_validate(_over(_defaults(kind), values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UserError(f"{where}: there is no setting {key!r}; {_known(kind, first['loc'])}.") from None
        message = INSTEAD.get(first["type"], first["msg"].removeprefix("Value error, "))
        raise UserError(f"{where}: {key + ': ' if key else ''}{message}.") from None


def _known(kind: type[Settings], loc: Sequence[str | int]) -> str:
    """The settings beside one that is unknown, and the one that may be meant."""
    *parents, last = (part for part in loc if isinstance(part, str))  # numbers are places in lists of groups
    for parent in parents:
        of = kind.model_fields[parent].annotation
        kind = next(each for each in (of, *get_args(of)) if isinstance(each, type) and issubclass(each, Settings))
    near = get_close_matches(last, kind.model_fields, 1)
    meant = f"perhaps {'.'.join((*parents, *near))} is meant; " if near else ""
    return f"{meant}{'.'.join(parents) + ' has' if parents else 'there are'} {', '.join(kind.model_fields)}"


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({getattr(error, 'strerror', error)}).") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected settings as `key: value`, found {type(values).__name__}.")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise UserError(f"--set {override}: write it as key=value, for example chunking.max_chunks=10.")
    for parent in parents:
        values = _entered(values, parent, override)
    try:
        values[_key(values, last, override)] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"--set {override}: {text!r} is not a value.") from None


def _entered(values: Any, name: str, override: str) -> Any:
    """The group of that name, made where there is none. It is copied: in YAML, two can be one (`&name`, `*name`)."""
    key = _key(values, name, override)
    group = values[key] if isinstance(values, list) else values.get(key)
    group = {} if group is None else group  # all in it is commented out
    if not isinstance(group, dict | list):
        raise UserError(f"--set {override}: {name} is not a group of settings.")
    values[key] = group.copy()
    return values[key]


def _key(values: Any, name: str, override: str) -> Any:
    """How a group knows what has that name: a list, by its number."""
    if not isinstance(values, list):
        return name
    if name not in map(str, range(len(values))):
        raise UserError(f"--set {override}: {name} is no number from 0 to {len(values) - 1}.")
    return int(name)
