"""What the pickles of a TorchScript archive say, read symbolically: nothing is imported, built or called.

Standard library only. The instructions are those that torch's C++ pickler writes (``pickler.cpp``); names of
dtypes are those of :mod:`formats.dtypes`.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from formats.dtypes import DTYPES
from formats.errors import Hostile, Unsupported
from formats.torchscript.code import read_type
from formats.torchscript.words import Class, Type

MAX_PICKLE = 16 << 20
MAX_INSTRUCTIONS = 1_000_000
MAX_DEPTH = 200
MAX_TENSORS = 200_000
MAX_DIMENSIONS = 64
#: Elements of a tensor, and letters of its dotted path.
_MAX_ELEMENTS, _MAX_PATH = 1 << 48, 1000
#: Times that torch may be made to read one record: each time into memory of its own.
_MAX_READS = 8

_STORAGES = {one.storage: name for name, one in DTYPES.items()}

#: Functions that the pickler names; each gives a value that holds no code.
_LISTS = {
    "torch.jit._pickle build_intlist": "int",
    "torch.jit._pickle build_doublelist": "float",
    "torch.jit._pickle build_boollist": "bool",
    "torch.jit._pickle build_tensorlist": "Tensor",
}
_FUNCTIONS = _LISTS.keys() | {
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
    state: dict[str, Any]


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _New:
    """An object before its BUILD; torch has only the number of its class there."""

    name: str


_MARK = object()


def read_pickle(raw: bytes, place: str, classes: Mapping[str, Class]) -> Any:
    """The value that a pickle describes.

    Tensors come as :class:`Stored`, objects as :class:`Instance`, the rest as plain Python values.
    ``place`` names the member in refusals; ``classes`` are those of the code. Objects have the attributes that
    their class declares, of the declared types: torch believes both. Time and memory grow with ``raw``.

    Raises:
        Hostile: WIPER-TS-010 (instructions), WIPER-TS-011 (names).
        Unsupported: quantised or otherwise special content.
    """
    if len(raw) > MAX_PICKLE:
        raise Hostile(f"{place} is larger than {MAX_PICKLE} bytes.", "WIPER-TS-010", place)
    try:
        return _run(raw, place, classes)
    except (IndexError, KeyError, ValueError, TypeError, struct.error, RecursionError) as error:
        raise Hostile(
            f"{place} is malformed: its values do not fit together.", "WIPER-TS-010", place
        ) from error


def _run(raw: bytes, place: str, classes: Mapping[str, Class]) -> Any:
    if raw[:2] != b"\x80\x02":
        raise ValueError("not protocol 2")
    stack: list[Any] = []
    memo: list[Any] = []
    reads: Counter[str] = Counter()
    fits = _Fits(classes)
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

    def remember(key: int) -> None:
        if stack[-1] is _MARK or isinstance(stack[-1], _New):
            raise ValueError("nothing to remember")
        if key == len(memo):
            memo.append(stack[-1])
        else:
            memo[key] = stack[-1]  # torch makes room for any number: IndexError here

    for _ in range(MAX_INSTRUCTIONS):
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
                stack.append(_check_global(name, place, classes))
            case b"\x81":  # NEWOBJ
                cls, arguments = pop(2)
                if not _is_class(cls) or arguments != ():
                    raise ValueError("object of no class")
                stack.append(_New(cls.name.replace(" ", ".")))
            case b"R":  # REDUCE
                function, arguments = pop(2)
                stack.append(_call(function, arguments, place, fits))
            case b"b":  # BUILD
                new, state = pop(2)
                if not isinstance(new, _New) or not fits.state(new.name, state):
                    raise ValueError("state of no object, or of another")
                stack.append(Instance(new.name, dict(state)))
            case b"Q":  # BINPERSID
                stack.append(_storage(pop(1)[0]))
                reads[stack[-1][0]] += 1
                if reads[stack[-1][0]] > _MAX_READS:
                    raise ValueError("one record again and again")
            case b"q":  # BINPUT
                remember(number("<B"))
            case b"r":  # LONG_BINPUT
                remember(number("<I"))
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
    raise Hostile(f"{place} has more than {MAX_INSTRUCTIONS} instructions.", "WIPER-TS-010", place)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("items of no list")
    return value


def _is_class(value: Any) -> bool:
    return isinstance(value, _Global) and value.name.startswith("__torch__")


def _check_global(name: str, place: str, classes: Mapping[str, Class]) -> _Global:
    module, _, attribute = name.partition(" ")
    if name.startswith("__torch__.torch.classes.quantized") or name == "torch._utils _rebuild_qtensor":
        raise Unsupported("The network is quantised (TorchScript int8); export the float network instead.")
    known = name in _FUNCTIONS or (module == "torch" and attribute in _STORAGES)
    if not known and not (name.startswith("__torch__") and name.replace(" ", ".") in classes):
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


def _call(function: Any, arguments: Any, place: str, fits: _Fits) -> Any:
    if (
        _is_class(function)
        and fits.is_enumeration(function.name)
        and isinstance(arguments, str | int | float)
    ):
        return arguments  # a member of an enumeration, called with its value alone
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise ValueError("call of no function")
    if function.name == "torch._utils _rebuild_tensor_v2":
        if len(arguments) == 7:
            raise Unsupported(f"{place} holds a lazily conjugated or negated tensor; save it materialised.")
        (key, dtype, count), offset, size, stride, requires_grad, hooks = arguments
        if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
            raise ValueError("no tensor")
        if len(size) > MAX_DIMENSIONS or hooks is not None or type(requires_grad) is not bool:
            raise ValueError("no tensor")
        if any(type(n) is not int or not 0 <= n < _MAX_ELEMENTS for n in (offset, *size, *stride)):
            raise ValueError("no tensor")
        if math.prod(n or 1 for n in size) > _MAX_ELEMENTS:
            raise ValueError("no tensor")
        return Stored(key, dtype, count, offset, size, stride, requires_grad)
    if function.name == "collections OrderedDict" and arguments == ():
        return None  # as torch reads it: the hooks of a tensor, which are never stored
    if function.name == "torch device" and len(arguments) == 1 and _is_device(arguments[0]):
        return arguments[0]
    if function.name == "torch.jit._pickle restore_type_tag":
        value, text = arguments
        if not fits(value, read_type(text)):
            raise ValueError("value of another type")
        return value
    if function.name in _LISTS:
        (items,) = arguments
        if not fits(items, Type("List", (Type(_LISTS[function.name]),))):
            raise ValueError("list of another type")
        return items
    raise ValueError("call of no function")


class _Fits:
    """Whether values are of the types that the code declares: torch tags them without looking."""

    def __init__(self, classes: Mapping[str, Class]) -> None:
        self.classes, self.left = classes, MAX_INSTRUCTIONS

    def state(self, name: str, state: Any) -> bool:
        """Whether these are the attributes of a class."""
        declared = self.classes[name].attributes
        return (
            isinstance(state, dict)
            and state.keys() == declared.keys()
            and all(self(state[key], kind) for key, kind in declared.items())
        )

    def is_enumeration(self, name: str) -> bool:
        return self.classes[name.replace(" ", ".")].base == "Enum"

    def __call__(self, value: Any, kind: Type) -> bool:
        self.left -= 1
        if self.left < 0:
            raise ValueError("values that repeat too often")
        name, inner = kind
        if name in _PLAIN:
            return type(value) in _PLAIN[name]
        match name, inner:
            case "Optional", (one,):
                return value is None or self(value, one)
            case "List", (one,):
                return isinstance(value, list) and all(self(item, one) for item in value)
            case "Dict", (key, one):
                return isinstance(value, dict) and all(
                    self(k, key) and self(v, one) for k, v in value.items()
                )
            case "Tuple", _:
                if not isinstance(value, tuple) or len(value) != len(inner) - (inner == (Type("()"),)):
                    return False
                return all(map(self, value, inner))
        cls = self.classes.get(name)
        if cls is None:
            return name in ("Any", "Union")
        if cls.base == "Enum":
            return isinstance(value, str | int | float)
        if cls.base == "NamedTuple":
            return isinstance(value, tuple) and all(map(self, value, cls.attributes.values()))
        return isinstance(value, Instance) and value.name == name


#: Types without parts → what their values are read as.
_PLAIN: Mapping[str, tuple[type, ...]] = {
    "Tensor": (Stored,), "int": (int,), "float": (float,), "bool": (bool,), "str": (str,), "NoneType": (type(None),),
    "number": (int, float, bool), "Scalar": (int, float, bool), "Device": (str,),
}  # fmt: skip


#: What :func:`named_tensors` looks at; the last two are no values of their own.
_WALKED = (Stored, Instance, dict, list, tuple, _Global, _New)


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
        if len(path) > _MAX_PATH or isinstance(item, _Global | _New):
            raise Hostile("The objects of data.pkl are malformed.", "WIPER-TS-010", "data.pkl")
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
        below = [(child, f"{dot}{name}", depth + 1) for name, child in children if isinstance(child, _WALKED)]
        pending.extend(reversed(below))
