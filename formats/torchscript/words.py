"""The language in which torch writes code into archives: lines, words, types and plain values.

It looks like Python (``torch/csrc/jit/serialization/python_print.cpp``): one simple statement a line, every operator by
its full name. What is taken here is split into the same words by torch's lexer, which differs from Python's in
comments, numbers, escapes and white space. No tree is built, so that memory stays in proportion to the text; Python's
own parser takes 700 bytes for a byte.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

from formats.errors import Hostile, Unsupported

#: Bytes of one file and of all files.
MAX_FILE, MAX_CODE = 1 << 20, 8 << 20
#: Brackets in brackets, blocks in blocks; calls in calls.
MAX_DEPTH, MAX_CALLS = 50, 100
_WORD = re.compile(
    rb"(?P<text>\"(?:[ !#-\[\]-~]|\\(?:[abfnrtv\\'\"]|[0-7]{3}))*+\")"
    rb"|(?P<number>\d{1,40}(?:\.\d{0,40})?(?:e[+-]?\d{1,3})?(?![\w.]))"
    rb"|(?P<name>[A-Za-z_]\w{0,400}+)|(?P<mark>->|[()\[\]{},.:=-])|(?P<line>\n *+)| ++",
    re.ASCII,
)
#: Types whose values have no length.
PLAIN = frozenset({"Tensor", "int", "float", "bool", "number", "Scalar", "NoneType", "Device"})
#: As many lists in lists as there can be; strings count so, too.
DEEP = 9
#: Values that are written as names.
LITERALS = frozenset({"True", "False", "None", "inf", "nan"})


#: Names that a variable would take away from what they stand for here: torch looks at variables first.
RESERVED = LITERALS | {
    "torch", "ops", "__torch__", "CONSTANTS", "annotate", "unchecked_cast", "uninitialized", "isinstance", "getattr",
    "range", "tolist",
}  # fmt: skip


class Type(NamedTuple):
    """``List[Tensor]`` is ``("List", (("Tensor", ()),))``; classes stand under their full name."""

    name: str
    arguments: tuple[Type, ...] = ()

    @property
    def object(self) -> str:
        """The class that a value of this type has unless it is None, "" if it is no object."""
        if self.name == "Optional" and self.arguments:
            return self.arguments[0].object
        return self.name if self.name.startswith("__torch__.") else ""

    @property
    def depth(self) -> int:
        """Lists in lists that a value of this type may be: 0 for a tensor or number, ``DEEP`` where that is unknown."""
        inner = max((one.depth for one in self.arguments), default=DEEP)
        if self.name in ("Optional", "Final"):
            return inner
        if self.name in ("List", "Tuple"):
            return min(inner + 1, DEEP)
        return 0 if self.name in PLAIN else DEEP


class Line(NamedTuple):
    """A line whose brackets are closed: spaces before it, and its words."""

    indent: int
    words: list[str]


@dataclass
class Function:
    """A function with the types that it declares; ``self`` has that of its class."""

    name: str
    place: str
    parameters: dict[str, Type]
    returns: Type
    body: list[Line]


@dataclass
class Class:
    """``base``: "Module", "NamedTuple", "Enum" or "". ``attributes`` are stored with objects, ``constants`` are not."""

    base: str
    attributes: dict[str, Type] = field(default_factory=dict)
    constants: dict[str, Type | None] = field(default_factory=dict)
    methods: dict[str, Function] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether ``.name`` of an object of this class is a value."""
        own = ("name", "value") if self.base == "Enum" else (*self.attributes, *self.constants)
        return name in own


@dataclass
class Code:
    """What the files define, by full name (``__torch__.models.Net``).

    ``used``: every operator (``torch.relu``), built-in function (``int``) and type (``Tensor``) that occurs, and
    the first place where it does.
    """

    classes: dict[str, Class] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)


def bomb(sentence: str, place: str) -> Hostile:
    """Code that is made to exhaust time or memory."""
    return Hostile(sentence, "WIPER-TS-022", place)


def lines_of(text: bytes, place: str) -> Iterator[Line]:
    """The lines of a file; raises Hostile (WIPER-TS-022) and Unsupported for what are no words of the language."""
    if len(text) > MAX_FILE or re.search(rb"(?:\n *+){6}", text):
        raise bomb(f"{place} is longer than {MAX_FILE} bytes, or empty for many lines.", place)
    words: list[str] = []
    depth = indent = end = 0
    for match in _WORD.finditer(text):
        if match.start() != end:
            break
        end = match.end()
        if match.lastgroup is None:
            continue
        word = match.group().decode("ascii")
        if match.lastgroup == "line":
            if depth:
                continue
            if words:
                yield Line(indent, words)
            words, indent = [], len(word) - 1
            continue
        words.append(word)
        if match.lastgroup == "mark":
            depth += (word in "([{") - (word in ")]}")
            if depth > MAX_DEPTH:
                raise bomb(f"Brackets in {place} nest more than {MAX_DEPTH} deep.", place)
    if end != len(text) or depth:
        raise Unsupported(f"{place} holds {text[end : end + 20]!r}, which torch does not write in code.")
    if words:
        yield Line(indent, words)


class Cursor:
    """The words of one line, from left to right."""

    def __init__(self, code: Code, place: str, words: list[str]) -> None:
        self.code, self.place, self.words, self.at = code, place, words, 0

    def strange(self) -> NoReturn:
        line = " ".join(self.words)[:120]
        raise Unsupported(f"{self.place}: torch does not write, or wiper does not open, {line!r}.")

    def unbounded(self) -> NoReturn:
        raise Unsupported(
            f"{self.place}: a while loop is not bounded; trace the network, or loop over a range."
        )

    @property
    def next(self) -> str:
        return self.words[self.at] if self.at < len(self.words) else ""

    def accept(self, word: str) -> bool:
        found = self.next == word
        self.at += found
        return found

    def expect(self, *words: str) -> None:
        for word in words:
            if not self.accept(word):
                self.strange()

    def name(self) -> str:
        word = self.next
        if not word.isidentifier():
            self.strange()
        self.at += 1
        return word

    def text(self) -> str:
        """A string that holds a name: nothing in it is escaped."""
        word = self.next
        if word[:1] != '"' or "\\" in word:
            self.strange()
        self.at += 1
        return word[1:-1]

    def dotted(self, name: str) -> str:
        while self.accept("."):
            name += f".{self.name()}"
        return name

    def type(self, types: dict[str, str]) -> Type:
        """A type; classes that have to be defined are added to ``types``."""
        name = self.dotted(self.name())
        if name.startswith("__torch__."):
            types.setdefault(name, self.place)
        else:
            self.use(name)
        arguments = []
        if self.accept("["):
            while not self.accept("]"):
                arguments.append(Type("()") if self.accept("(") and self.accept(")") else self.type(types))
                if self.next != "]":
                    self.expect(",")
        return Type(name, tuple(arguments))

    def literal(self, types: dict[str, str]) -> bool:
        """Reads a value in which nothing is evaluated; False where there is none."""
        if self.accept("annotate"):
            self.expect("(")
            self.type(types)
            self.expect(",")
            return self.literal(types) and self.accept(")")
        closing = {"[": "]", "(": ")", "{": "}"}.get(self.next)
        if closing:
            self.at += 1
            while not self.accept(closing):
                if not self.literal(types) or not (
                    self.next == closing or self.accept(",") or self.accept(":")
                ):
                    return False
            return True
        self.accept("-")
        word = self.next
        self.at += 1
        return word in LITERALS or word[:1] in tuple('"0123456789')

    def end(self) -> None:
        if self.at < len(self.words):
            self.strange()

    def use(self, name: str) -> None:
        self.code.used.setdefault(name, self.place)


def blocks(
    code: Code, place: str, lines: Sequence[Line], indent: int
) -> Iterator[tuple[Cursor, Sequence[Line]]]:
    """Every line that is indented by ``indent``, with the lines below it that are indented further."""
    at = 0
    while at < len(lines):
        end = at + 1
        while end < len(lines) and lines[end].indent > indent:
            end += 1
        cursor = Cursor(code, place, lines[at].words)
        if lines[at].indent != indent:
            cursor.strange()
        yield cursor, lines[at + 1 : end]
        at = end


def undefined(place: str, name: str) -> Unsupported:
    """Code that names what it does not define."""
    return Unsupported(f"{place}: the code names {name[:200]}, which it does not define.")


def check_types(code: Code, types: Mapping[str, str]) -> None:
    """Classes by name, with a place where they are named, have to be defined; raises Unsupported."""
    for name, place in types.items():
        if name.startswith("__torch__.torch.classes."):
            raise Unsupported(
                f"The network is quantised or uses a C++ class ({name[:200]}); export a plain float network."
            )
        if name not in code.classes:
            raise undefined(place, name)
