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
    """Settings of `kind` from a YAML file and `a.b=value` overrides; of two, the later one holds.

    Raises UserError that names the file or the override, the key and what is allowed.
    """
    found = kind()
    if file is not None:
        found = _validated(kind, _over(_plain(found), _read_yaml(file)), str(file))
    if overrides:
        values = _plain(found)
        for override in overrides:
            _apply(values, override)
        found = _validated(kind, values, "--set " + " --set ".join(overrides))
    return found


def _plain(settings: Any) -> Any:
    """Settings as plain dicts and lists of their own; what follows from other settings is left out."""
    if isinstance(settings, Settings):
        follows = {name for name, field in type(settings).model_fields.items() if field.default_factory}
        return {name: _plain(of) for name, of in settings if name not in follows - settings.model_fields_set}
    return [_plain(each) for each in settings] if isinstance(settings, tuple) else settings


def _over(old: Any, new: Any) -> Any:
    """What is there, and over it what is named, group by group: a group's own defaults may differ from its kind's."""
    if isinstance(old, dict) and new is None:
        return old  # a group of which all is commented out
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _over(old.get(key), each) for key, each in new.items()}}
    return new


def _validated(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    try:
        return kind.model_validate(values)
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


class _Loader(yaml.SafeLoader):
    """Without merge keys: twenty lines of them may hold a million values."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse a merge key. Raises ValueError."""
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise ValueError("merge keys, <<, are not read here")


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _Loader) or {}
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
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"--set {override}: {text!r} is not a value.") from None
    group: Any = values
    for parent in parents:
        group = group.setdefault(parent, {}) if isinstance(group, dict) else group[_number(group, parent, override)]
        if not isinstance(group, dict | list):
            raise UserError(f"--set {override}: {parent} is not a group of settings.")
    if isinstance(group, dict):
        group[last] = _over(group.get(last), value)
    else:
        group[_number(group, last, override)] = value


def _number(group: list[Any], name: str, override: str) -> int:
    """The place in a list that a name stands for."""
    if name not in map(str, range(len(group))):
        raise UserError(f"--set {override}: {name} is no number from 0 to {len(group) - 1}.")
    return int(name)
