"""What the functions of an archive do: which operators they run, how often, and whose methods they call.

Standard library only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from formats.errors import Hostile, Unsupported
from formats.torchscript.texts import Texts
from formats.torchscript.words import (
    DEEP,
    LITERALS,
    MAX_CALLS,
    MAX_DEPTH,
    RESERVED,
    Code,
    Cursor,
    Function,
    Line,
    Type,
    blocks,
    bomb,
    check_types,
    undefined,
)

#: Times that lists or strings are joined to one another: each may double their length.
MAX_JOINS = 8
#: Rounds of a loop over something whose length the code does not tell.
_ROUNDS = 16
#: Elements of a tensor whose sizes stand in the code, and the largest number there but for the "all" of slices.
MAX_ELEMENTS = 1 << 28
_ALL = (1 << 63) - 1

#: Operators that are given the sizes of their result; elsewhere numbers in a list are strides, parts, axes.
_SIZED = re.compile(
    r"torch\.(zeros|ones|full|empty|rand|new_|expand|repeat|tile|broadcast_to|_?upsample|adaptive_|col2im|\w*pad)"
)
#: Operators that may give a list or a string: what they take of their arguments, ``pieces`` of a tensor, or anything.
_LISTS = {
    name if "." in name else f"torch.{name}": rule
    for rule, names in {
        "least": "add add_",
        "most": "mul mul_ slice select pop copy list append _set_item meshgrid broadcast_tensors ops.prim.max "
        "ops.prim.min",
        "pieces": "size chunk split split_with_sizes tensor_split unbind where",
        "any": "items keys values format ops.prim.type",
    }.items()
    for name in names.split()
}  # fmt: skip
#: Operators that make a list or a string out of several.
_JOINING = frozenset(
    f"torch.{name}" for name in ["add", "add_", "extend", "mul", "mul_", "format", "append", "insert"]
)
#: What makes a text of others, and what makes none of any.
_TEXTS, _ENDS = frozenset({"torch.add", "torch.format"}), frozenset({"torch.len", "ops.prim.RaiseException"})
#: What makes a list of values that stay as they are, or puts one more into it.
_HOLDING = frozenset({"[", "torch.append", "torch.insert"})
#: Lists in lists of which several in one list count as joined: all that is nested is written out in a text.
_NESTED = 3
#: Copies of a list in the code that count for nothing.
_COPIES = 1024
#: Kinds of values whose depth is found out in the end.
_FOLLOWED = frozenset({"name", "called", "attribute", "result"})
#: Built-in functions whose first argument, or second for ``isinstance``, is a type.
_TYPED = frozenset({"annotate", "unchecked_cast", "uninitialized", "isinstance"})


class _Value(NamedTuple):
    """What is known of an expression.

    ``kind``: name (of a variable), attribute (``name`` of variable ``of``), function (``name``), object (of class
    ``name``), number, called (what variable ``of`` is), literal (a list or string as it stands), or "" for all else,
    tensors among them. ``depth``: lists in lists that it may be; where that follows from others, ``parts``, by
    ``rule``: as their least or most, one more, one less. What makes texts gives its result a ``name``, too.
    """

    kind: str = ""
    name: str = ""
    of: str = ""
    depth: int = 0
    rule: str = ""
    parts: tuple[_Value, ...] = ()

    @property
    def text(self) -> str:
        """What :class:`Texts` calls it, "" what it does not know."""
        return self.name if self.kind == "name" or self.name[:1] == "#" else ""


_ANYTHING = _Value(depth=DEEP)


class Body:
    """What one function does.

    ``size``: operators that stand in it; ``parts``: lines and expressions; ``steps``: those that it runs; ``joins``: of
    lists. ``calls``: functions by full name and how often. A method is called on a variable only whose class follows
    from the declarations: on anything else its name could be one of torch's operators.
    """

    def __init__(self, code: Code, function: Function) -> None:
        self.code, self.function = code, function
        self.size = self.parts = self.steps = self.joins = self.fills = 0
        self.calls: list[tuple[int, str]] = []
        self.variables: dict[str, list[_Value]] = defaultdict(list)
        for name, kind in function.parameters.items():
            self.variables[name].append(_typed(kind))
        self._classes: dict[str, str] = {}
        self._types: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._number, self._names = 1, set[str]()
        self._sized = False
        self._read: list[tuple[Cursor, str, str]] = []
        self._called: list[tuple[Cursor, int, str, str]] = []
        self._joined: list[tuple[int, str, tuple[_Value, ...], str]] = []
        self._texts = Texts()
        self._given: list[_Value] = []
        self._depths: dict[str, int] = {}
        self._stores = False
        self.block(function.body, 1, 0)
        self.resolve()

    def block(self, lines: Sequence[Line], rounds: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise bomb(
                f"{self.function.place} has more than {MAX_DEPTH} blocks in each other.", self.function.place
            )
        after_if = False
        for cursor, below in blocks(self.code, self.function.place, lines, lines[0].indent):
            self.rounds, self._number, self._names = rounds, 1, set()
            self.take()
            inner, was_if, after_if = rounds, after_if, False
            if cursor.accept("if"):
                self.expression(cursor)
                after_if = True
            elif was_if and cursor.accept("else"):
                pass
            elif cursor.accept("for"):
                self.assign(cursor, cursor.name(), _Value())
                cursor.expect("in", "range", "(")
                inner = min(rounds * self.range(cursor), 1 << 62)
                cursor.expect(")")
            elif cursor.accept("while"):
                inner = min(rounds * self.counted(cursor, below), 1 << 62)
            elif below:
                cursor.strange()
            else:
                self.statement(cursor)
                cursor.end()
                continue
            cursor.expect(":")
            cursor.end()
            if not below:
                cursor.strange()
            self.block(below, inner, depth + 1)

    def range(self, cursor: Cursor) -> int:
        """Rounds of a loop: the number itself, or what it is computed from, as far as that can be seen."""
        self._names = set()
        value = self.expression(cursor)
        if value.kind == "number":
            return int(value.name)
        for name in self._names:
            self._number *= self._numbers.get(name, 1)
        return _ROUNDS * self._number

    def counted(self, cursor: Cursor, body: Sequence[Line]) -> int:
        """Rounds of a ``while``; only a loop over a range that may be left early is one, and ends like this::

        K = torch.add(I, 1)
        C = torch.__and__(torch.lt(K, N), ...)
        CONDITION, ..., I = C, ..., K
        """
        condition = cursor.name()
        self._read.append((cursor, condition, ""))
        if len(body) < 3 or len({line.indent for line in (body[0], *body[-3:])}) > 1:
            cursor.unbounded()
        step, test, last = (line.words for line in body[-3:])
        at = last.index("=") if "=" in last else 0
        following = dict(zip(last[:at:2], last[at + 1 :: 2], strict=False))
        k, c = step[0], test[0]
        i = next((name for name, value in following.items() if value == k), "")
        limit = test[12] if len(test) > 14 else ""
        fixed = {condition, i, k, c, limit}
        if (
            step != [k, "=", "torch", ".", "add", "(", i, ",", "1", ")"]
            or test[:15]
            != [c, "=", *["torch", ".", "__and__", "(", "torch", ".", "lt", "("], k, ",", limit, ")", ","]
            or following.get(condition) != c
            or len(fixed) < 5
            or any(fixed & _assigned(line.words) for line in body[:-3])
            or {limit, k, c} & set(last[:at])
            or any(value.kind != "number" for value in self.variables[i])
        ):
            cursor.unbounded()
        if limit.isdigit():
            return min(int(limit), 1 << 62)
        return _ROUNDS * self._numbers.get(limit, 1)

    def statement(self, cursor: Cursor) -> None:
        if cursor.accept("pass"):
            return
        if cursor.accept("return"):
            self.expressions(cursor)
            return
        left = self.expressions(cursor)
        if cursor.accept(":"):
            cursor.type(self._types)
        if not cursor.accept("="):
            if len(left) != 1 or cursor.words[-1] != ")":
                cursor.strange()
            return
        self._names, unpacked = set(), cursor.words[cursor.at - 2] == ","
        right = self.expressions(cursor)
        known = len(left) == len(right) and not unpacked
        part = _Value(rule="part", parts=(right[0],))
        for i, target in enumerate(left):
            if target.kind == "attribute":  # of an object of the network's own, or it could not be read
                self._stores = True
                continue
            if target.kind != "name":
                cursor.strange()
            self.assign(cursor, target.name, right[i] if known else part)
            self._texts.read[target.name] -= 1
            self._texts.goes([right[i].text if known else ""], target.name)
            self._numbers[target.name] = self._numbers.get(target.name, 1) * min(self._number, 1 << 62)

    def assign(self, cursor: Cursor, name: str, value: _Value) -> None:
        if name in RESERVED or name == "self":
            cursor.strange()
        self.variables[name].append(value)

    def expressions(self, cursor: Cursor) -> list[_Value]:
        """Expressions with commas between them, and maybe one at the end."""
        found = [self.expression(cursor)]
        while cursor.accept(","):
            if cursor.next in ("", "="):
                break
            found.append(self.expression(cursor))
        return found

    def take(self) -> None:
        """Count a line or an expression."""
        self.parts += 1
        self.steps += self.rounds

    def expression(self, cursor: Cursor) -> _Value:
        self.take()
        word = cursor.next
        if word in ("[", "(", "{"):
            value = self.bracket(cursor)
        elif word[:1] == '"':
            cursor.at += 1
            value = _Value("literal", depth=DEEP)
        elif word == "-" or word[:1].isdigit():
            value = self.number(cursor)
        else:
            value = self.named(cursor, cursor.name())
        while cursor.next in (".", "["):
            self.take()
            if cursor.accept("."):
                value = self.attribute(cursor, value)
            else:
                self.subscript(cursor)
                value = _Value(rule="part", parts=(value,))
        return value

    def number(self, cursor: Cursor) -> _Value:
        negative = cursor.accept("-")
        word = cursor.next
        cursor.at += 1
        if not word.isdigit():
            return _Value() if word[:1].isdigit() or word in ("inf", "nan") else cursor.strange()
        number = int(word)
        if number > MAX_ELEMENTS and number not in (_ALL, _ALL + negative):
            raise bomb(f"The code asks for {word} of something ({cursor.place}).", cursor.place)
        self._number *= number if 1 < number <= MAX_ELEMENTS else 1
        return _Value() if negative else _Value("number", word)

    def bracket(self, cursor: Cursor) -> _Value:
        """A list, a tuple, a dictionary, or one value in parentheses."""
        closing = {"[": "]", "(": ")", "{": "}"}[cursor.next]
        cursor.at += 1
        elements, value, count = 1, _Value(), 0
        parts: list[_Value] = []
        while not cursor.accept(closing):
            value, count = self.expression(cursor), count + 1
            if closing == "}":
                cursor.expect(":")
                parts.append(self.expression(cursor))
            elif value.depth or value.rule or value.kind in _FOLLOWED:
                parts.append(value)
            elif value.kind == "number":
                elements *= max(1, int(value.name))
            single = cursor.next == closing and count == 1
            if cursor.next != closing:
                cursor.expect(",")
        if self._sized and elements > MAX_ELEMENTS:
            raise bomb(f"The code asks for a tensor of {elements} elements ({cursor.place}).", cursor.place)
        if closing == ")" and count == 1 and single:
            return value
        self._joined.append((self.rounds, "[", tuple(parts), ""))
        if closing == "}":
            return _ANYTHING
        own = tuple(dict.fromkeys(parts))
        return _Value("literal", str(count), depth=1, rule="more" if parts else "", parts=own)

    def subscript(self, cursor: Cursor) -> None:
        cursor.expect("[")
        self.expression(cursor)
        if cursor.accept(":"):
            self.expression(cursor)
        cursor.expect("]")

    def arguments(self, cursor: Cursor) -> list[_Value]:
        found = []
        cursor.expect("(")
        while not cursor.accept(")"):
            if cursor.words[cursor.at + 1 : cursor.at + 2] == ["="]:
                cursor.name()
                cursor.expect("=")
            found.append(self.expression(cursor))
            if cursor.next != ")":
                cursor.expect(",")
        return found

    def named(self, cursor: Cursor, name: str) -> _Value:
        if name in ("torch", "ops"):
            return self.operator(cursor, cursor.dotted(name))
        if name == "CONSTANTS":
            cursor.expect(".")
            cursor.name()
            return _Value()  # a tensor
        if name == "__torch__":
            return self.defined(cursor, cursor.dotted(name))
        if name in LITERALS:
            return _Value()
        self._names.add(name)
        if cursor.next != "(":
            self._read.append((cursor, name, ""))
            self._texts.read[name] += 1
            return _Value("name", name)
        if name in self.variables:
            self._given += self.arguments(cursor)
            self._called.append((cursor, self.rounds, name, ""))
            return _Value("called", of=name)
        return self.builtin(cursor, name)

    def operator(self, cursor: Cursor, name: str) -> _Value:
        """``torch.relu(x)`` or ``ops.prim.device(x)``; operators are called, and never given away."""
        if cursor.next != "(":
            raise Hostile(
                f"The code names {name[:200]} without calling it ({cursor.place}).",
                "WIPER-TS-020",
                cursor.place,
            )
        cursor.use(name)
        self.size += 1
        outer, self._sized = self._sized, _SIZED.match(name) is not None
        given = tuple(self.arguments(cursor))
        self._sized = outer
        texts, made = [one.text for one in given], ""
        if name in _TEXTS:
            made = self._texts.made(texts)
        elif name in _ENDS:
            self._texts.goes(texts)
        if name in _JOINING and any(one.depth or one.rule or one.kind in _FOLLOWED for one in given):
            self._joined.append((self.rounds, name, given, made))
        rule = _LISTS.get(name, "")
        if rule == "pieces" and name == "torch.size" and len(given) > 1:
            return _Value()  # of one axis
        if rule == "any":
            return _ANYTHING._replace(name=made)
        return _Value(name=made, rule=rule, parts=given if rule else ())

    def builtin(self, cursor: Cursor, name: str) -> _Value:
        cursor.use(name)
        self.size += 1
        if name not in _TYPED and name != "getattr":
            self.arguments(cursor)
            return _Value() if name in ("int", "float", "bool") else _ANYTHING
        cursor.expect("(")
        if name == "getattr":
            variable = cursor.name()
            cursor.expect(",")
            value = _Value("attribute", cursor.text(), variable)
            self._read.append((cursor, variable, value.name))
        elif name == "isinstance":
            self.expression(cursor)
            value = _Value()
            cursor.expect(",")
            several = cursor.accept("(")
            cursor.type(self._types)
            while several and not cursor.accept(")"):
                cursor.expect(",")
                cursor.type(self._types)
        else:
            kind = cursor.type(self._types)
            if name != "uninitialized":
                cursor.expect(",")
                self.expression(cursor)
            value = _typed(kind)
        cursor.expect(")")
        return value

    def defined(self, cursor: Cursor, name: str) -> _Value:
        """A function or class of the archive: called, made an object of, or kept in a variable to be called."""
        cls = self.code.classes.get(name.removesuffix(".__new__"))
        function = self.code.functions.get(name)
        if name.endswith(".__new__") and cls is not None and cls.base == "":
            cursor.expect("(")
            cursor.type(self._types)
            cursor.expect(")")
            return _Value("object", name.removesuffix(".__new__"))
        member = self.code.classes.get(name.rpartition(".")[0])
        if member is not None and member.base == "Enum" and name.rpartition(".")[2] in member.constants:
            return _Value("object", name.rpartition(".")[0])
        if cls is not None and cls.base == "NamedTuple" and cursor.next == "(":
            given = self.arguments(cursor)
            self._given += given
            self._joined.append((self.rounds, "[", tuple(given), ""))
            return _Value("object", name, depth=DEEP)
        if function is None:
            raise undefined(cursor.place, name)
        if cursor.next != "(":
            return _Value("function", name)
        self._given += self.arguments(cursor)
        self.calls.append((self.rounds, name))
        return _typed(function.returns)

    def attribute(self, cursor: Cursor, value: _Value) -> _Value:
        name = cursor.name()
        if name == "tolist" and cursor.next == "(":  # of a tensor: its elements
            cursor.expect("(", ")")
            return _ANYTHING
        if value.kind != "name":
            cursor.strange()
        if cursor.next != "(":
            self._read.append((cursor, value.name, name))
            return _Value("attribute", name, value.name)
        self._given += self.arguments(cursor)
        self._called.append((cursor, self.rounds, value.name, name))
        return _Value("result", name, value.name)

    def resolve(self) -> None:
        """What is read and called on variables, now that everything is known that they may be."""
        for cursor, variable, name in self._read:
            if variable not in self.variables:
                cursor.strange()
            cls = self.code.classes.get(self.class_of(variable)) if name else None
            known = cls and (
                name in cls.attributes
                or name in cls.constants
                or (cls.base == "Enum" and name in ("name", "value"))
            )
            if name and not known:
                raise Unsupported(
                    f"{cursor.place}: {variable}.{name[:100]} is no attribute of the network's own classes."
                )
        for cursor, rounds, variable, name in self._called:
            functions = [value.name for value in self.variables[variable] if value.kind == "function"]
            if name:
                cls = self.code.classes.get(self.class_of(variable))
                functions = [cls.methods[name].name] if cls and name in cls.methods else []
            elif len(functions) < len(self.variables[variable]):
                functions = []
            if not functions:
                raise Unsupported(
                    f"{cursor.place}: the code calls {variable}.{name[:100]}, which it does not define."
                )
            self.calls += [(rounds, function) for function in functions]
        check_types(self.code, self._types)
        #: A text that comes in as a parameter does not leave, but for the message of an error.
        self.keeps = not (self.function.returns.depth or self._stores or any(map(self.made, self._given)))
        fills: dict[str, int] = {}
        for rounds, name, given, made in self._joined:
            count = rounds * self.joined(name, given)
            if name == "torch.format":
                fills[made] = count
            else:
                self.joins += count
        self.fills = self._texts.doublings(fills)

    def joined(self, name: str, given: Sequence[_Value]) -> int:
        """How often the longest of some lists or strings is doubled at most; what is added of the code's own is as long
        as the code."""
        depths = [self.depth(one) for one in given]
        if name in _HOLDING:
            return int(
                sum(n >= _NESTED and not self.quoted(one) for n, one in zip(depths, given, strict=True)) > 1
            )
        grows = name in ("torch.extend", "torch.add_")  # the variable holds another list from then on
        own = [one.kind == "literal" if grows else self.written(one) for one in given]
        if name == "torch.format":
            own = [mine or (self.keeps and self.taken(one)) for mine, one in zip(own, given, strict=True)]
            strings = any(depth == DEEP and not mine for depth, mine in zip(depths, own, strict=True))
            return len(given).bit_length() if strings else 0
        if name not in ("torch.mul", "torch.mul_"):
            return int(sum(depth > 0 for depth in depths) > 1 and sum(own) == 0)
        if not any(depths) or min(depths) > 0:
            return 0
        times = next((int(one.name) for one in given if one.kind == "number"), 1 << (MAX_JOINS // 2))
        return 0 if any(own) and times <= _COPIES else times.bit_length()

    def quoted(self, value: _Value) -> bool:
        """Whether a value is a text that stands in the code."""
        values = self.variables[value.name] if value.kind == "name" else [value]
        return all(one.kind == "literal" and not one.name for one in values)

    def taken(self, value: _Value) -> bool:
        """Whether a value is what came in as a parameter."""
        return value.name in self.function.parameters and len(self.variables[value.name]) == 1

    def made(self, value: _Value) -> bool:
        """Whether a value may be a text that was made here."""
        if self.written(value) or self.taken(value):
            return False
        cls = self.code.classes.get(self.object(value, 0))
        return self.depth(value) == DEEP and (cls is None or cls.base == "NamedTuple")

    def written(self, value: _Value) -> bool:
        """Whether a list or string stands in the code as it is."""
        values = self.variables[value.name] if value.kind == "name" else [value]
        return all(one.kind == "literal" for one in values)

    def depth(self, value: _Value, level: int = 0) -> int:
        """Lists in lists that a value may be."""
        if level > MAX_CALLS:
            return DEEP
        if value.kind == "name":
            if value.name not in self._depths:
                self._depths[value.name] = 0
                found = [self.depth(one, level + 1) for one in self.variables.get(value.name, ())]
                self._depths[value.name] = max(found, default=DEEP)
            return self._depths[value.name]
        if value.kind == "called":
            names = [one.name for one in self.variables[value.of] if one.kind == "function"]
            return max((self.code.functions[name].returns.depth for name in names), default=DEEP)
        if value.kind in ("attribute", "result"):
            cls = self.code.classes.get(self.class_of(value.of, level))
            method = cls.methods.get(value.name) if cls else None
            kind = method.returns if value.kind == "result" and method else None
            if value.kind == "attribute" and cls:
                kind = cls.attributes.get(value.name) or cls.constants.get(value.name)
            return kind.depth if kind else DEEP
        parts = [self.depth(one, level + 1) for one in value.parts]
        most = max(parts, default=0)
        if value.rule in ("more", "part"):
            return DEEP if most == DEEP else max(most + (1 if value.rule == "more" else -1), 0)
        if value.rule == "pieces":
            return DEEP if parts and parts[0] else 1
        if value.rule:
            return min(parts, default=0) if value.rule == "least" else most
        return value.depth

    def class_of(self, variable: str, depth: int = 0) -> str:
        """The class that every value of a variable has; "" if that is unknown or they differ."""
        if variable not in self._classes:
            self._classes[variable] = ""
            found = {self.object(value, depth + 1) for value in self.variables.get(variable, ())}
            if len(found) == 1 and depth <= MAX_CALLS:
                self._classes[variable] = found.pop()
        return self._classes[variable]

    def object(self, value: _Value, depth: int) -> str:
        if value.kind == "object":
            return value.name
        if value.kind == "name" and depth <= MAX_CALLS:
            return self.class_of(value.name, depth)
        if value.kind not in ("attribute", "result") or depth > MAX_CALLS:
            return ""
        cls = self.code.classes.get(self.class_of(value.of, depth))
        if cls is None:
            return ""
        if value.kind == "result":
            return cls.methods[value.name].returns.object if value.name in cls.methods else ""
        kind = cls.attributes.get(value.name)
        return kind.object if kind else ""


def _typed(kind: Type) -> _Value:
    """A value of a declared type."""
    return _Value("object", kind.object, depth=DEEP) if kind.object else _Value(depth=kind.depth)


def _assigned(words: Sequence[str]) -> set[str]:
    """The variables that a line may give a value to, and maybe more words."""
    if words[0] == "for":
        return {words[1]}
    return set(words[: words.index("=")]) if "=" in words else set()
