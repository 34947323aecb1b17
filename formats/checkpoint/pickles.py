"""A Python pickle as plain data: what it would import becomes a name, what it would call a record of the call.

Nothing is imported, built or called, so that whatever a pickle holds can be read; standard library only. The
instructions are those of :mod:`pickletools`.
"""

from __future__ import annotations

import math
import pickletools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from formats.dtypes import DTYPES
from formats.errors import Hostile, Unreadable, Unsupported

#: What no checkpoint needs, one id each; ids are stable and never reused.
RULES = {"WIPER-PKL-001": "A pickle names a function that runs code, opens files or connects, or may do so."}

MAX_INSTRUCTIONS = 20_000_000
MAX_ELEMENTS = 1 << 40

#: Modules whose functions do something outside the process, or anything at all.
_DANGEROUS = frozenset((
    "os", "posix", "nt", "subprocess", "sys", "runpy", "importlib", "imp", "socket", "shutil", "pty",
    "ctypes", "code", "codeop", "commands", "marshal", "pickle", "_pickle", "cPickle", "dill", "cloudpickle",
    "joblib", "webbrowser", "asyncio", "multiprocessing", "threading", "_thread", "timeit", "bdb", "pdb",
    "trace", "profile", "cProfile", "doctest", "pip", "setuptools", "distutils", "ensurepip", "venv", "site",
    "requests", "urllib", "urllib2", "http", "httplib", "ftplib", "smtplib", "telnetlib", "xmlrpc", "aiohttp",
    "httpx", "paramiko", "fabric", "signal", "resource", "mmap", "tempfile", "glob", "fileinput", "io", "_io",
    "gc", "inspect", "types", "platform", "pydoc", "zipimport", "pkgutil", "atexit", "uuid", "nturl2path",
))  # fmt: skip
#: Of the built-in names those that only make values.
_HARMLESS = frozenset((
    "set", "frozenset", "list", "dict", "tuple", "int", "long", "float", "complex", "bytes", "bytearray",
    "str", "unicode", "bool", "object", "slice", "range", "xrange", "NoneType", "Ellipsis",
))  # fmt: skip
#: Functions that are not what their module's others are.
_FUNCTIONS = frozenset(
    {
        "torch load",
        "torch.serialization load",
        "torch.hub load",
        "torch.jit load",
        "numpy load",
        "numpy fromfile",
    }
    | {"numpy.core.multiarray fromfile", "operator attrgetter", "operator methodcaller", "functools reduce"}
    | {"torch.storage _load_from_bytes", "torch.package package_importer"}
)

_STORAGES = {f"torch {one.storage}": name for name, one in DTYPES.items()}
_DTYPES = {f"torch {one.torch}": name for name, one in DTYPES.items() if one.torch} | {
    "torch uint16": "U16",
    "torch uint32": "U32",
    "torch uint64": "U64",
}
_BYTES = ("torch UntypedStorage", "torch.storage UntypedStorage")
_PARAMETERS = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")
#: Attributes of a parameter that are its elements.
_SETTING = frozenset({"data", "real", "imag"})
_DICTS = ("collections OrderedDict", "collections defaultdict", "builtins dict", "__builtin__ dict")
#: What checkpoints call that only makes values, beside :data:`_HARMLESS` and ``torch._utils._rebuild_…``.
_VALUES = frozenset(
    f"{module} {name}"
    for modules, names in (
        ("collections", "OrderedDict defaultdict Counter deque"),
        ("argparse", "Namespace"),
        ("datetime", "date datetime time timedelta timezone"),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("functools", "partial"),
        ("_codecs", "encode"),
        ("re", "_compile"),
        ("pathlib pathlib._local", "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"),
        ("numpy", "dtype ndarray"),
        ("numpy.core.multiarray numpy._core.multiarray", "_reconstruct scalar"),
        ("numpy.core.numeric numpy._core.numeric", "_frombuffer"),
        ("numpy.random", "__RandomState_ctor"),
        ("numpy.random._pickle", "__randomstate_ctor __generator_ctor __bit_generator_ctor"),
        ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"),
        ("torch", "Size device Tensor"),
        ("torch.nn.parameter", "Parameter Buffer UninitializedParameter UninitializedBuffer"),
        ("torch.serialization", "_get_layout"),
        ("torch.torch_version", "TorchVersion"),
    )
    for module in modules.split()
    for name in names.split()
)
#: Calls whose first argument is called, or is the class of what is made.
_INDIRECT = ("torch._tensor _rebuild_from_type", "torch._tensor _rebuild_from_type_v2")
#: Where torch keeps the classes that whole networks and optimizers are made of.
_CLASSES = ("torch.nn.", "torch.optim.", "torch.ao.", "torch.utils.data.", "torch.amp.", "torch.cuda.amp.")
#: Modules and packages whose import does nothing but define, beside those of :data:`_VALUES` and :data:`_CLASSES`.
_IMPORTED = frozenset(one.partition(" ")[0] for one in _VALUES) | frozenset((
    "__main__", "abc", "builtins", "__builtin__", "calendar", "copy", "copyreg", "copy_reg", "dataclasses", "enum",
    "itertools", "logging", "math", "numbers", "numpy.dtypes", "numpy.random._mt19937", "numpy.random._pcg64",
    "numpy.random._philox", "numpy.random._sfc64", "operator", "random", "string", "time", "torch._C", "torch._C._nn",
    "torch._tensor", "torch._utils", "torch.functional", "torch.nn", "torch.optim", "torch.storage", "typing",
))  # fmt: skip
_PACKAGES = (
    "lightning.", "lightning_fabric.", "omegaconf.", "pytorch_lightning.", "timm.", "torchmetrics.", "torchvision.",
)  # fmt: skip
_RECONSTRUCTORS = ("copyreg _reconstructor", "copy_reg _reconstructor")
_WRAPPERS = ("torch.nn.parameter Parameter", "torch.nn.parameter Buffer")


@dataclass(frozen=True)
class Storage:
    """Record ``key`` of ``count`` elements; ``dtype`` as in :data:`formats.dtypes.DTYPES`, U8 where it is bytes."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class Tensor:
    """Elements ``offset + Σ index·stride`` of ``storage``, counted in elements of ``dtype``."""

    storage: Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of its elements."""
        return math.prod(self.size)


@dataclass(frozen=True)
class Name:
    """What the pickle would import: module, a space, name."""

    name: str


@dataclass(eq=False)
class Object:
    """What a call of ``name`` would have given, and the ``state`` that would have been put into it."""

    name: str
    arguments: Any = None
    state: Any = None


@dataclass
class Pickle:
    """The ``value`` of a pickle that ends at byte ``end``; ``called``: the names of what it would call, in order, and
    ``unknown``: those of them that are not known to do nothing but make values. ``named``: the names of what it would
    import and not call, but for types of numbers and the like, ``strange``: those of them whose module may do more than
    define when it is imported."""

    value: Any
    end: int
    called: dict[str, None] = field(default_factory=dict)
    unknown: dict[str, None] = field(default_factory=dict)
    named: dict[str, None] = field(default_factory=dict)
    strange: dict[str, None] = field(default_factory=dict)


_MARK = object()


def read_pickle(data: bytes, start: int = 0, *, place: str) -> Pickle:
    """The pickle that begins at byte ``start``; ``place`` names it in refusals. Time and memory grow with its length.

    Raises:
        Hostile: WIPER-PKL-001.
        Unsupported: too many instructions, extension codes, buffers outside the pickle.
        Unreadable: bytes that are no pickle.
    """
    stream = BytesIO(data)
    stream.seek(start)
    machine = _Machine(place)
    try:
        for count, (code, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MAX_INSTRUCTIONS:
                raise Unsupported(f"{place} has more than {MAX_INSTRUCTIONS} instructions.")
            if code.name == "STOP":
                (value,) = machine.stack
                return Pickle(value, stream.tell(), machine.called, machine.unknown, *machine.named())
            machine.step(code.name, argument)
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise Unreadable(
            f"{place} is a damaged pickle, or one that is made for some readers alone: Python may run what this reader "
            "cannot follow. Get the file again, and do not load this one."
        ) from error
    raise Unreadable(f"{place} is a pickle without an end; get the file again.")


class _Machine:
    """The stack and the memory of one pickle."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.called: dict[str, None] = {}
        self.unknown: dict[str, None] = {}
        self.storages: dict[str, Storage] = {}
        self.names: dict[str, None] = {}
        self.used: set[str] = set()
        self.packages: set[str] = set()

    def named(self) -> tuple[dict[str, None], dict[str, None]]:
        """What is only named, and what of it is strange."""
        named = [one for one in self.names if one not in self.used]
        strange = [one for one in named if not _imported(one, self.packages)]
        shown = [one for one in named if one in strange or not _plain(one)]
        return dict.fromkeys(one.replace(" ", ".") for one in shown), dict.fromkeys(
            one.replace(" ", ".") for one in strange
        )

    def step(self, code: str, argument: Any) -> None:
        """Does what one instruction says, to names and records in place of things."""
        stack = self.stack
        match code:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_MARK)
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(code == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "LIST" | "FROZENSET":
                stack.append(self._since_mark())
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop(int(code[-1]))))
            case "DICT":
                stack.append({})
                self._put(self._since_mark(), stack[-1])
            case "APPEND":
                (item,) = self._pop(1)
                self._extend([item])
            case "APPENDS" | "ADDITEMS":
                self._extend(self._since_mark())
            case "SETITEM":
                items = self._pop(2)
                self._put(items, stack[-1])
            case "SETITEMS":
                items = self._since_mark()
                self._put(items, stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self._top()
            case "MEMOIZE":
                self.memo[len(self.memo)] = self._top()
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(self._name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(self._name(*self._pop(2)))
            case "REDUCE" | "NEWOBJ":
                function, arguments = self._pop(2)
                if code == "NEWOBJ" and arguments and isinstance(function, Name) and function.name in _DICTS:
                    raise ValueError("a dict that is made, not filled, of something")
                stack.append(self._call(function, arguments, made=code == "NEWOBJ"))
            case "NEWOBJ_EX":
                function, arguments, more = self._pop(3)
                stack.append(self._call(function, (*arguments, more), made=True))
            case "INST":
                arguments = self._since_mark()
                stack.append(self._call(self._name(*argument.split(" ", 1)), tuple(arguments)))
            case "OBJ":
                function, *arguments = self._since_mark()
                stack.append(self._call(function, tuple(arguments)))
            case "BUILD":
                (state,) = self._pop(1)
                self._build(stack[-1], state)
            case "PERSID" | "BINPERSID":
                stack.append(self._stored(_storage(argument if code == "PERSID" else self._pop(1)[0])))
            case _ if code.startswith(("EXT", "NEXT_BUFFER", "READONLY")):
                raise Unsupported(
                    f"{self.place} holds the pickle instruction {code}, which checkpoints never do."
                )
            case _:  # a number or a text, which genops has read
                stack.append(argument)

    def _top(self) -> Any:
        if self.stack[-1] is _MARK:
            raise ValueError("nothing to remember")
        return self.stack[-1]

    def _pop(self, count: int) -> list[Any]:
        items = self.stack[len(self.stack) - count :]
        if len(items) != count or _MARK in items:
            raise ValueError("stack is too short")
        del self.stack[len(self.stack) - count :]
        return items

    def _since_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _extend(self, items: Sequence[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Object):  # of an object's own items nothing is kept
            raise ValueError("nothing to add to")

    def _put(self, items: Sequence[Any], to: Any) -> None:
        if isinstance(to, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                short = not isinstance(key, int) or key.bit_length() <= 64
                plain = short and isinstance(key, str | int | float | bytes | None)
                to[key if plain else f"<{type(key).__name__}>"] = value
        elif not isinstance(to, Object):  # torch.load would write into a tensor or a list
            raise ValueError("no mapping")

    def _build(self, to: Any, state: Any) -> None:
        """The state of an object. Of a tensor torch.load takes other elements from one, but for the oldest files'
        ``(requires_grad, volatile, hooks)``."""
        if isinstance(to, Object) and to.state is None:
            to.state = state
        elif isinstance(to, Tensor | Object) and not (
            isinstance(state, tuple) and len(state) == 3 and type(state[0]) is bool
        ):
            raise Unsupported(f"{self.place} puts something else into what it has already made.")

    def _stored(self, storage: Storage | Name) -> Storage | Name:
        """The storage, which torch.load takes to be as it was first described."""
        if isinstance(storage, Storage):
            first = self.storages.setdefault(storage.key, storage)
            if first != storage and (first.count or storage.count):
                raise Unsupported(f"{self.place} describes one storage in two ways.")
        return storage

    def _name(self, module: Any, name: Any) -> Name:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("no name")
        top = module.partition(".")[0]
        built_in = top in ("builtins", "__builtin__") and name not in _HARMLESS
        # Protocol 4 can walk from a module to what it imports: "torch", "os.system".
        walks = "." in name and any(part in _DANGEROUS for part in name.split("."))
        if built_in or walks or top in _DANGEROUS or f"{module} {name}" in _FUNCTIONS:
            raise Hostile(
                f"{self.place} names {f'{module}.{name}'[:200]!r}, which torch.load would import so as to call it.",
                "WIPER-PKL-001",
                self.place,
            )
        self.names[f"{module} {name}"] = None
        return Name(f"{module} {name}")

    def _call(self, function: Any, arguments: Any, made: bool = False) -> Any:
        """``made``: an object of the class ``function`` is made without calling it."""
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            self.called["what another call gave"] = self.unknown["what another call gave"] = None
            return Object("")
        name = function.name
        if not _known(name, arguments, made):
            self.unknown[name.replace(" ", ".")] = None
        elif name in _RECONSTRUCTORS:
            self._imports(arguments[0].name)
        self._imports(name)
        if name in _DICTS:
            found: dict[Any, Any] = {}
            for content in arguments:
                found.update(content if isinstance(content, dict) else {})
                for pair in content if isinstance(content, list) else ():
                    self._put(list(pair), found)
            return found
        if name.partition(" ")[2] in ("set", "frozenset", "list") and name.startswith(
            ("builtins", "__builtin__")
        ):
            return arguments[0] if arguments and isinstance(arguments[0], list) else []
        if name in ("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2"):
            storage, offset, size, stride = arguments[:4]
            self._no_metadata(arguments[6:])
            return _tensor(storage, storage.dtype, offset, size, stride)
        if name == "torch._utils _rebuild_tensor_v3":
            storage, offset, size, stride = arguments[:4]
            self._no_metadata(arguments[7:])
            return _tensor(storage, _DTYPES[arguments[6].name], offset, size, stride)
        if name in _PARAMETERS and any(map(_SETTING.intersection, _dicts(arguments[3:]))):
            raise Unsupported(f"{self.place} puts something else into what it has already made.")
        if name in _PARAMETERS or (name in _WRAPPERS and arguments):
            return arguments[0]
        self.called[name.replace(" ", ".")] = None
        return Object(name, arguments)

    def _imports(self, name: str) -> None:
        """What is called is told as such; whoever is ready to import a package for it is so for all of it."""
        self.used.add(name)
        if name.replace(" ", ".") not in self.unknown:
            self.packages.add(name.partition(" ")[0].partition(".")[0])

    def _no_metadata(self, arguments: tuple[Any, ...]) -> None:
        if any(arguments):
            raise Unsupported(
                f"{self.place} keeps a tensor negated or conjugated; save it with resolve_neg() and resolve_conj()."
            )


def _dicts(states: Sequence[Any]) -> list[dict[Any, Any]]:
    """The mappings of attributes in a state, which is one or a tuple of two."""
    several = [one for state in states for one in (state if isinstance(state, tuple) else (state,))]
    return [one for one in several if isinstance(one, dict)]


def _storage(value: Any) -> Storage | Name:
    tag, kind = value[:2]
    if tag == "module" and isinstance(kind, Name):  # old: a class, with the text of its source
        return kind
    key, _, count = value[2:5]
    if any(value[5:]):
        raise Unsupported("The checkpoint keeps views of storages, as torch did long ago; save it anew.")
    if tag != "storage" or type(count) is not int or not 0 <= count < MAX_ELEMENTS:
        raise ValueError("no storage")
    if not isinstance(kind, Name) or not isinstance(key, str):
        raise ValueError("no storage")
    return Storage(key, "U8" if kind.name in _BYTES else _STORAGES[kind.name], count)


def _tensor(storage: Any, dtype: str, offset: Any, size: Any, stride: Any) -> Tensor:
    size, stride = tuple(size), tuple(stride)
    numbers = (offset, *size, *stride)
    if not isinstance(storage, Storage) or len(size) != len(stride) or len(size) > 64:
        raise ValueError("no tensor")
    if any(type(n) is not int or not 0 <= n < MAX_ELEMENTS for n in numbers):
        raise ValueError("no tensor")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    unit = DTYPES[dtype].size // DTYPES[storage.dtype].size or 1
    if 0 not in size and (last + 1) * unit > storage.count:
        raise ValueError("a tensor reaches beyond its storage")
    return Tensor(storage, dtype, offset, size, stride)


def _plain(name: str) -> bool:
    """Whether a name is what all checkpoints hold: types of storages and of numbers, parts of how they are written."""
    module = name.partition(" ")[0]
    return name in _VALUES or name in _STORAGES or module in (
        "builtins", "__builtin__", "torch", "torch._utils", "torch.serialization", "torch.storage",
    )  # fmt: skip


def _imported(name: str, packages: set[str]) -> bool:
    """Whether importing what is named is known to define things and nothing else; ``packages``: those of which
    something is made anyway."""
    module = name.partition(" ")[0]
    top = module.partition(".")[0]
    if "__main__" in module.split(".")[1:]:
        return False
    foreign = top not in sys.stdlib_module_names and top not in ("numpy", "torch")
    return (
        module in _IMPORTED
        or f"{module}.".startswith((*_CLASSES, *_PACKAGES))
        or (foreign and top in packages)
    )


def _known(name: str, arguments: tuple[Any, ...], made: bool) -> bool:
    """Whether what torch.load would do here is known to make values and nothing else. An object that is ``made`` runs
    its class's ``__new__`` alone, which may do more in large libraries: a ``numpy.memmap`` opens files."""
    module, _, what = name.partition(" ")
    if module in ("builtins", "__builtin__"):
        return what in _HARMLESS
    if name in _INDIRECT:
        function = arguments[0] if arguments else None
        return (
            isinstance(function, Name) and function.name not in _INDIRECT and _known(function.name, (), False)
        )
    if name in _RECONSTRUCTORS and len(arguments) == 3:
        kind, base = arguments[:2]
        plain = isinstance(base, Name) and base.name.startswith(("builtins ", "__builtin__ "))
        return plain and isinstance(kind, Name) and _known(kind.name, (), True)
    if name in _VALUES or name in _STORAGES or (module == "torch._utils" and what.startswith("_rebuild_")):
        return True
    top = module.partition(".")[0]
    inner = top in sys.stdlib_module_names or top in ("numpy", "torch")
    return made and (not inner or f"{module}.".startswith(_CLASSES))
