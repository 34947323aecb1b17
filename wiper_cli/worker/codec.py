"""Frozen dataclasses as plain JSON and back, by their declared types: nothing but what is declared gets through.

Tensors stay out of the JSON: a field of type ``Mapping[str, NewTensor]`` becomes a safetensors container under the
place of the field (``edit.tensors``). Imports no torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from formats import FormatError, NewTensor, pack_tensors, unpack_tensors

T = TypeVar("T")
Tensors = Mapping[str, NewTensor]

#: Deepest nesting and largest whole number of what has no declared type: whoever shows it can follow.
DEPTH, LARGEST = 32, 1 << 63


class Malformed(ValueError):
    """A value is not what its declared type says; the message names the place."""


@dataclass(frozen=True)
class OneOf:
    """``Annotated[Contract, OneOf(table)]``: an instance of a class in ``table``, under its ``name``."""

    table: Mapping[str, type]


def pack(value: Any) -> tuple[Any, dict[str, bytes]]:
    """A dataclass as JSON-able data, and the containers of its tensors by their places."""
    containers: dict[str, bytes] = {}
    return _pack(type(value), value, "", containers), containers


def unpack(kind: type[T], data: Any, containers: Mapping[str, bytes]) -> T:
    """What :func:`pack` took apart. Raises :class:`Malformed` for anything else: unknown and missing fields, other
    types, tensors that no field takes."""
    left = dict(containers)
    found: T = _unpack(kind, data, "", left)
    _require(not left, f"the container {min(left, default='')[:60]!r}", "expected")
    return found


def _pack(kind: Any, value: Any, place: str, containers: dict[str, bytes]) -> Any:
    kind, table = _bare(kind)
    arguments, origin = get_args(kind), get_origin(kind)
    if table is not None:
        name = getattr(value, "name", "")
        _require(name in table and table[name] is type(value), place, f"one of {[*table]}")
        return {name: _pack(table[name], value, place, containers)}
    if value is None or kind is Any:
        return value
    if kind == Tensors:
        containers[place] = pack_tensors(value)
        return place
    if origin is Mapping:
        return {key: _pack(arguments[1], item, _at(place, key), containers) for key, item in value.items()}
    if origin is tuple:
        kinds = _each(arguments, len(value))
        return [_pack(kinds[i], item, _at(place, i), containers) for i, item in enumerate(value)]
    if hasattr(kind, "__dataclass_fields__"):
        declared = _declared(kind)
        return {n: _pack(one, getattr(value, n), _at(place, n), containers) for n, one in declared.items()}
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def _unpack(kind: Any, data: Any, place: str, containers: dict[str, bytes]) -> Any:
    optional = get_origin(kind) in (Union, UnionType)
    kind, table = _bare(kind)
    arguments, origin = get_args(kind), get_origin(kind)
    if optional and data is None:
        return None
    if table is not None:
        _require(
            isinstance(data, dict) and len(data) == 1 and {*data} <= {*table}, place, f"one of {[*table]}"
        )
        ((name, inner),) = data.items()
        return _unpack(table[name], inner, place, containers)
    if kind is Any:
        return _free(data, place, DEPTH)
    if kind == Tensors:
        _require(data == place and place in containers, place, "there")
        try:
            return unpack_tensors(containers.pop(place))
        except FormatError as error:
            raise Malformed(f"{place}: {error}") from error
    if origin is Literal:
        _require(
            any(type(data) is type(one) and data == one for one in arguments), place, f"one of {arguments}"
        )
        return data
    if origin is Mapping:
        _require(isinstance(data, dict), place, "a mapping")
        return {key: _unpack(arguments[1], item, _at(place, key), containers) for key, item in data.items()}
    if origin is tuple:
        _require(isinstance(data, list), place, "a list")
        kinds = _each(arguments, len(data))
        _require(len(kinds) == len(data), place, f"a list of {len(kinds)}")
        return tuple(_unpack(kinds[i], item, _at(place, i), containers) for i, item in enumerate(data))
    if hasattr(kind, "__dataclass_fields__"):
        declared = _declared(kind)
        _require(isinstance(data, dict), place or kind.__name__, "a mapping")
        for name in declared:
            _require(name in data, _at(place, name), "there")
        for name in data:
            _require(name in declared, _at(place, name), "known")
        return kind(**{n: _unpack(one, data[n], _at(place, n), containers) for n, one in declared.items()})
    if issubclass(kind, Enum):
        values = [member.value for member in kind]
        _require(type(data) in map(type, values) and data in values, place, f"one of {values}")
        return kind(data)
    if kind is Path:
        _require(isinstance(data, str) and "\0" not in data, place, "a path")
        return Path(data)
    fits = _is_number(data, whole=kind is int) if kind in (int, float) else type(data) is kind
    _require(fits, place, f"of type {kind.__name__}")
    return data


def _free(data: Any, place: str, depth: int) -> Any:
    """JSON whose type nobody declared, as it is."""
    _require(depth > 0, place, f"at most {DEPTH} levels deep")
    if isinstance(data, dict):
        return {key: _free(item, place, depth - 1) for key, item in data.items()}
    if isinstance(data, list):
        return [_free(item, place, depth - 1) for item in data]
    _require(data is None or isinstance(data, (bool, str)) or _is_number(data), place, "a usable value")
    return data


def _is_number(data: Any, whole: bool = False) -> bool:
    if type(data) is int:
        return abs(data) < LARGEST
    return not whole and type(data) is float and math.isfinite(data)


def _require(holds: bool, place: str, what: str) -> None:
    if not holds:
        raise Malformed(f"{place} is not {what}")


def _bare(kind: Any) -> tuple[Any, Mapping[str, type] | None]:
    """The type without ``| None`` and without its :class:`OneOf`, and the latter's table."""
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is Annotated:
        kind, *marks = get_args(kind)
        return kind, next((mark.table for mark in marks if isinstance(mark, OneOf)), None)
    return kind, None


@cache
def _declared(kind: Any) -> dict[str, Any]:
    """Type by name of every field."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


def _each(arguments: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """The type of every entry of a ``tuple[…]``."""
    return arguments[:1] * count if arguments[-1] is Ellipsis else arguments


def _at(place: str, inner: object) -> str:
    return f"{place}.{str(inner)[:60]}" if place else str(inner)[:60]
