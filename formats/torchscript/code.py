"""The code of a TorchScript archive, read without compiling it: only what torch itself writes gets through.

``torch.jit.load`` compiles this code, and *evaluates* default arguments and the values of classes.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from formats.errors import Hostile, Unsupported
from formats.torchscript.bodies import Body
from formats.torchscript.cost import Cost, count
from formats.torchscript.words import (
    MAX_CODE,
    RESERVED,
    Class,
    Code,
    Cursor,
    Function,
    Line,
    Type,
    blocks,
    bomb,
    check_types,
    lines_of,
)

#: Lists of names with which a class begins; all else that begins so is refused.
_HEADS = frozenset({"__parameters__", "__buffers__", "__annotations__"})
#: Lists of methods that torch runs before and after ``forward``, which alone is opened: they have to be empty.
_HOOKS = frozenset({"__forward_hooks__", "__forward_pre_hooks__"})
#: What torch's Python class keeps in a module of its own and looks into when the module is called: an attribute or
#: method of that name stands in its place. ``forward`` is one where it is no method.
KEPT = frozenset(
    {
        "_c", "_concrete_type", "_initializing", "_parameters", "_buffers", "_modules",
        "_non_persistent_buffers_set", "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
        "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks",
        "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
    }
)  # fmt: skip
#: Methods that torch calls where no call stands: a subscript, a cast, a condition, a list being sorted.
_IMPLICIT = frozenset({"__getitem__", "__int__", "__float__", "__bool__", "__str__", "__lt__", "__call__"})


def read_code(files: Mapping[str, bytes]) -> Code:
    """The definitions in all code files, by member name (``code/__torch__/models.py``).

    Raises:
        Hostile: WIPER-TS-014 and WIPER-TS-019 to WIPER-TS-022.
        Unsupported: what torch does not write, or writes only for networks that cannot be opened.
    """
    if sum(map(len, files.values())) > MAX_CODE:
        raise bomb(f"The code is longer than {MAX_CODE} bytes.", "code")
    code = Code()
    types: dict[str, str] = {}
    for member, text in files.items():
        _Definitions(code, types, member).read(text)
    check_types(code, types)
    methods = [method for one in code.classes.values() for method in one.methods.values()]
    bodies = {one.name: Body(code, one) for one in (*code.functions.values(), *methods)}
    known: dict[str, Cost] = {}
    for name in bodies:
        count(bodies, known, name)
    return code


def read_type(text: Any) -> Type:
    """A type as pickles write it (``Dict[str, Tensor]``); raises ValueError for what is none."""
    try:
        lines = list(lines_of(text.encode(), "")) if isinstance(text, str) and len(text) < 1000 else []
        cursor = Cursor(Code(), "", lines[0].words if lines else [])
        kind = cursor.type({})
        cursor.end()
    except (Unsupported, Hostile) as error:
        raise ValueError(f"no type: {text!r}") from error
    return kind


class _Definitions:
    """Reads the classes and functions of one file; what stands in functions is looked at when all are known."""

    def __init__(self, code: Code, types: dict[str, str], member: str) -> None:
        self.code, self.types, self.member = code, types, member
        self.module = member.removeprefix("code/").removesuffix(".py").replace("/", ".")

    def read(self, text: bytes) -> None:
        for cursor, body in blocks(self.code, self.member, list(lines_of(text, self.member)), 0):
            if cursor.accept("def"):
                self.define(self.code.functions, self.function(cursor, body, self.module, ""))
            elif cursor.accept("class"):
                self.klass(cursor, body)
            elif body or not (cursor.accept("import") or cursor.accept("op_version_set")):
                cursor.strange()  # the last two begin files of torch 1

    def define(self, table: dict[str, Any], value: Any, name: str = "") -> None:
        name = name or value.name
        if name in table:
            raise Hostile(f"{self.member} defines {name[:200]} twice.", "WIPER-TS-021", self.member)
        table[name] = value

    def klass(self, cursor: Cursor, body: Sequence[Line]) -> None:
        name = f"{self.module}.{cursor.name()}"
        base = ""
        if cursor.accept("("):
            base = cursor.name()
            cursor.expect(")")
        cursor.expect(":")
        cursor.end()
        if base not in ("", "Module", "NamedTuple", "Enum") or not body:
            cursor.strange()
        one = Class(base)
        self.define(self.code.classes, one, name)
        for line, below in blocks(self.code, self.member, body, body[0].indent):
            if line.accept("def"):
                method = self.function(line, below, name, name)
                self.define(one.methods, method, method.name.removeprefix(f"{name}."))
            elif below:
                line.strange()
            elif line.next in _HEADS or line.next in _HOOKS:
                self.head(line, one, name)
            elif not line.accept("pass"):
                attribute = line.name()
                kind = self.type(line) if line.accept(":") else None
                if kind is None and base != "Enum":
                    line.strange()
                if line.accept("="):
                    self.literal(line, f"Class {name}")
                    self.define(one.constants, kind, attribute)
                elif kind is not None:
                    self.define(one.attributes, kind, attribute)
            line.end()
        values, methods = one.attributes.keys() | one.constants.keys(), one.methods.keys()
        if hidden := values & (methods | {"forward"}) | (values | methods) & KEPT:
            raise Unsupported(
                f"{self.member}: {min(hidden)[:200]} of {name[:200]} stands in the place of what torch runs."
            )

    def head(self, line: Cursor, one: Class, owner: str) -> None:
        """``__parameters__ = ["weight", ]`` or ``__annotations__["0"] = Tensor``."""
        head = line.name()
        if head == "__annotations__" and line.accept("["):
            attribute = line.text()
            line.expect("]", "=")
            self.define(one.attributes, self.type(line), attribute)
            return
        line.expect("=", "[")
        while not line.accept("]"):
            text = line.text()
            if head in _HOOKS:
                raise Unsupported(
                    f"{self.member}: torch runs {text[:200]!r} around forward of {owner[:200]} ({head}), which is not "
                    "opened; take the hook off, or write it into forward, and save again."
                )
            line.accept(",")

    def function(self, cursor: Cursor, body: Sequence[Line], owner: str, cls: str) -> Function:
        name = cursor.name()
        if cls and name in ("__setstate__", "__getstate__"):
            raise Hostile(
                f"{self.member} defines code that runs while the file is being loaded ({name}).",
                "WIPER-TS-014", self.member,
            )  # fmt: skip
        if name in RESERVED or (cls and name in _IMPLICIT):
            cursor.strange()
        parameters: dict[str, Type] = {}
        cursor.expect("(")
        while not cursor.accept(")"):
            parameter = cursor.name()
            if parameter in parameters or parameter in RESERVED:
                cursor.strange()
            own = Type(cls) if cls and not parameters else None  # to torch, whatever is declared
            kind = self.type(cursor) if cursor.accept(":") else own
            if kind is None or kind != (own or kind):
                cursor.strange()
            parameters[parameter] = kind
            if cursor.accept("="):
                self.literal(cursor, f"Function {name}")
            if cursor.next != ")":
                cursor.expect(",")
        cursor.expect("->")
        returns = self.type(cursor)
        cursor.expect(":")
        cursor.end()
        if not body:
            cursor.strange()
        return Function(f"{owner}.{name}", self.member, parameters, returns, list(body))

    def type(self, cursor: Cursor) -> Type:
        return cursor.type(self.types)

    def literal(self, cursor: Cursor, owner: str) -> None:
        """A value that needs no evaluation; anything else runs while the file is being loaded."""
        if not cursor.literal(self.types):
            raise Hostile(
                f"{owner} in {self.member} has a value that is computed while the file is being loaded.",
                "WIPER-TS-019", self.member,
            )  # fmt: skip
