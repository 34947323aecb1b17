"""What the pickles of a TorchScript archive say, read symbolically: nothing is imported, built or called.

Standard library only. The instructions are those that torch's C++ pickler writes (``pickler.cpp``); names of
dtypes are those of :mod:`formats.dtypes`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from formats.dtypes import DTYPES
from formats.errors import Hostile, Unsupported

MAX_PICKLE = 64 << 20
MAX_DEPTH = 200
MAX_TENSORS = 200_000

_STORAGES = {one.storage: name for name, one in DTYPES.items()}

#: Functions that the pickler names; each gives a value that holds no code.
_LISTS = frozenset(
    f"torch.jit._pickle build_{kind}" for kind in ("intlist", "doublelist", "boollist", "tensorlist")
)
_FUNCTIONS = _LISTS | {
    "torch._utils _rebuild_tensor_v2",
    "collections OrderedDict",
    "torch.jit._pickle restore_type_tag",
    "torch device",
}


@dataclass(frozen=True)
class Stored:
    """One tensor: elements ``offset + Σ index·stride`` of record ``key``, which holds ``count`` elements."""

    key: str
    dtype: str
    count: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool

    @property
    def last(self) -> int:
        """Index of the highest element in the record; ``offset - 1`` for an empty tensor."""
        if 0 in self.size:
            return self.offset - 1
        return self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))


@dataclass(eq=False)
class Instance:
    """One object of a class that the archive's code defines: its attributes, in order."""

    name: str
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Global:
    name: str


_MARK = object()


def read_pickle(raw: bytes, place: str, defined: Callable[[str], bool]) -> Any:
    """The value that a pickle describes.

    Tensors come as :class:`Stored`, objects as :class:`Instance`, the rest as plain Python values.
    ``place`` names the member in refusals; ``defined`` tells whether the code defines a class
    (``__torch__.models.Net``).

    Raises:
        Hostile: WIPER-TS-010 (instructions), WIPER-TS-011 (names).
        Unsupported: quantised or otherwise special content.
    """
    if len(raw) > MAX_PICKLE:
        raise Hostile(f"{place} is larger than {MAX_PICKLE} bytes.", "WIPER-TS-010", place)
    try:
        return _run(raw, place, defined)
    except (IndexError, KeyError, ValueError, TypeError, struct.error, RecursionError) as error:
        raise Hostile(
            f"{place} is malformed: its values do not fit together.", "WIPER-TS-010", place
        ) from error


def _run(raw: bytes, place: str, defined: Callable[[str], bool]) -> Any:
    if raw[:2] != b"\x80\x02":
        raise ValueError("not protocol 2")
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    position = 2

    def take(length: int) -> bytes:
        nonlocal position
        if length < 0 or position + length > len(raw):
            raise ValueError("past the end")
        position += length
        return raw[position - length : position]

    def number(layout: str) -> Any:
        return struct.unpack(layout, take(struct.calcsize(layout)))[0]

    def since_mark() -> list[Any]:
        at = len(stack) - 1
        while stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def pop(count: int) -> tuple[Any, ...]:
        items = tuple(stack[len(stack) - count :])
        if len(items) != count or _MARK in items:
            raise ValueError("stack is too short")
        del stack[len(stack) - count :]
        return items

    while True:
        match take(1):
            case b".":  # STOP
                if len(stack) != 1 or position != len(raw):
                    raise ValueError("does not end at its end")
                return stack[0]
            case b"(":  # MARK
                stack.append(_MARK)
            case b"c":  # GLOBAL
                end = raw.index(b"\n", raw.index(b"\n", position) + 1)
                name = take(end + 1 - position).decode("utf-8")[:-1].replace("\n", " ")
                stack.append(_check_global(name, place, defined))
            case b"\x81":  # NEWOBJ
                cls, arguments = pop(2)
                if not _is_class(cls) or arguments != ():
                    raise ValueError("object of no class")
                stack.append(Instance(cls.name.replace(" ", ".")))
            case b"R":  # REDUCE
                function, arguments = pop(2)
                stack.append(_call(function, arguments, place))
            case b"b":  # BUILD
                instance, state = stack[-2], pop(1)[0]
                if not isinstance(instance, Instance) or instance.state or not isinstance(state, dict):
                    raise ValueError("state of no object")
                instance.state = state
            case b"Q":  # BINPERSID
                stack.append(_storage(pop(1)[0]))
            case b"q":  # BINPUT
                memo[number("<B")] = stack[-1]
            case b"r":  # LONG_BINPUT
                memo[number("<I")] = stack[-1]
            case b"h":  # BINGET
                stack.append(memo[number("<B")])
            case b"j":  # LONG_BINGET
                stack.append(memo[number("<I")])
            case b"}":
                stack.append({})
            case b"]":
                stack.append([])
            case b")":
                stack.append(())
            case b"t":  # TUPLE
                stack.append(tuple(since_mark()))
            case b"\x85":
                stack.append(pop(1))
            case b"\x86":
                stack.append(pop(2))
            case b"\x87":
                stack.append(pop(3))
            case b"a":  # APPEND
                item = pop(1)[0]
                _list(stack[-1]).append(item)
            case b"e":  # APPENDS
                items = since_mark()
                _list(stack[-1]).extend(items)
            case b"u":  # SETITEMS
                items = since_mark()
                if not isinstance(stack[-1], dict) or len(items) % 2:
                    raise ValueError("items of no dictionary")
                for key, value in zip(items[::2], items[1::2], strict=True):
                    if not isinstance(key, str | int | float) or key in stack[-1]:
                        raise ValueError("no key, or the same one twice")
                    stack[-1][key] = value
            case b"N":
                stack.append(None)
            case b"\x88":
                stack.append(True)
            case b"\x89":
                stack.append(False)
            case b"J":
                stack.append(number("<i"))
            case b"K":
                stack.append(number("<B"))
            case b"M":
                stack.append(number("<H"))
            case b"\x8a":  # LONG1
                length = number("<B")
                if length > 8:
                    raise ValueError("integer of more than 64 bits")
                stack.append(int.from_bytes(take(length), "little", signed=True))
            case b"G":
                stack.append(number(">d"))
            case b"X":  # BINUNICODE
                stack.append(take(number("<I")).decode("utf-8", "surrogatepass"))
            case other:
                raise Hostile(
                    f"{place} holds pickle instruction 0x{other.hex()}, which TorchScript never writes.",
                    "WIPER-TS-010", place,
                )  # fmt: skip


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("items of no list")
    return value


def _is_class(value: Any) -> bool:
    return isinstance(value, _Global) and value.name.startswith("__torch__")


def _check_global(name: str, place: str, defined: Callable[[str], bool]) -> _Global:
    module, _, attribute = name.partition(" ")
    if name.startswith("__torch__.torch.classes.quantized") or name == "torch._utils _rebuild_qtensor":
        raise Unsupported("The network is quantised (TorchScript int8); export the float network instead.")
    known = name in _FUNCTIONS or (module == "torch" and attribute in _STORAGES)
    if not known and not (name.startswith("__torch__") and defined(name.replace(" ", "."))):
        raise Hostile(f"{place} names {name[:200]!r}, which TorchScript never needs.", "WIPER-TS-011", place)
    return _Global(name)


def _storage(value: Any) -> tuple[str, str, int]:
    """Record key, dtype, number of elements."""
    tag, kind, key, device, count = value
    wrong = (
        tag != "storage"
        or not isinstance(kind, _Global)
        or not isinstance(key, str)
        or not (key.isascii() and key.isdecimal())
        or not _is_device(device)
        or type(count) is not int
        or count < 0
    )
    if wrong:
        raise ValueError("no storage")
    return key, _STORAGES[kind.name.removeprefix("torch ")], count


def _is_device(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    kind, colon, index = value.partition(":")
    return kind in ("cpu", "cuda") and (not colon or (index.isascii() and index.isdecimal()))


def _call(function: Any, arguments: Any, place: str) -> Any:
    if _is_class(function) and isinstance(arguments, str | int | float):
        return arguments  # a member of an enumeration, called with its value alone
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise ValueError("call of no function")
    if function.name == "torch._utils _rebuild_tensor_v2":
        if len(arguments) == 7:
            raise Unsupported(f"{place} holds a lazily conjugated or negated tensor; save it materialised.")
        (key, dtype, count), offset, size, stride, requires_grad, hooks = arguments
        numbers = (offset, *size, *stride)
        if any(type(n) is not int or not 0 <= n < 1 << 48 for n in numbers) or hooks != {}:
            raise ValueError("no tensor")
        if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
            raise ValueError("no tensor")
        return Stored(key, dtype, count, offset, size, stride, bool(requires_grad))
    if function.name == "collections OrderedDict" and arguments == ():
        return {}
    if function.name == "torch device" and len(arguments) == 1 and _is_device(arguments[0]):
        return arguments[0]
    if function.name == "torch.jit._pickle restore_type_tag":
        value, _type = arguments
        return value
    if function.name in _LISTS:
        (items,) = arguments
        return _list(items)
    raise ValueError("call of no function")


def named_tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, Stored]]:
    """Every tensor below a value with its dotted path (``layer1.0.conv1.weight``), in stored order.

    Raises Hostile (WIPER-TS-010) for objects that contain themselves or nest too deeply.
    """
    budget = MAX_TENSORS
    pending: list[tuple[Any, str, int]] = [(value, prefix, 0)]
    while pending:
        item, path, depth = pending.pop()
        budget -= 1
        if depth > MAX_DEPTH or budget < 0:
            raise Hostile(
                "The objects of data.pkl nest too deeply or repeat too often.", "WIPER-TS-010", "data.pkl"
            )
        if isinstance(item, Stored):
            yield path, item
            continue
        children: Iterator[tuple[Any, Any]]
        if isinstance(item, Instance):
            children = iter(item.state.items())
        elif isinstance(item, dict):
            children = iter(item.items())
        elif isinstance(item, list | tuple):
            children = iter(enumerate(item))
        else:
            continue
        dot = f"{path}." if path else ""
        below = [
            (child, f"{dot}{name}", depth + 1)
            for name, child in children
            if isinstance(child, Stored | Instance | dict | list | tuple)
        ]
        pending.extend(reversed(below))
