"""The reader of code, on code as torch writes it and as it never does; no torch but where the lists are made."""

import json
import random

import pytest

from formats import FormatError, Hostile, Unsupported
from formats.torchscript import code as limits
from formats.torchscript.code import read_code, read_type
from formats.torchscript.operators import PATH, REVIEWED, allowed, check_operators
from formats.torchscript.words import Type

HEAD = """\
class Inner(Module):
  __parameters__ = ["weight", ]
  __buffers__ = []
  weight : Tensor
  bias : Optional[Tensor]
  sizes : List[int]
  scale : Final[float] = -1.0000000000000001e-05
  eps : Final[Tuple[int, int]] = (1, 1)
  def forward(self: __torch__.m.Inner,
    x: Tensor,
    p: float=0.5,
    dims: List[int]=[2, 3],
    mode: str="a \\'b\\'",
    out: Optional[Tensor]=None) -> Tensor:
    return torch.relu(x)
class Pair(NamedTuple):
  left : Tensor
  right : Tensor
class Way(Enum):
  UP = "up"
def helper(x: Tensor) -> Tensor:
  return torch.mul(x, 2)
"""
NET = """\
class Net(Module):
  __parameters__ = []
  __buffers__ = []
  __annotations__ = []
  __annotations__["0"] = __torch__.m.Inner
  inner : __torch__.m.Inner
  way : __torch__.m.Way
  def forward(self: __torch__.m.Net,
    x: Tensor) -> Tensor:
"""


def files(body, head=HEAD, net=NET):
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    return {"code/__torch__/m.py": (head + net + lines).encode()}


def read(body="return x", **more):
    return read_code(files(body, **more))


ACCEPTED = {
    "submodules": """
inner = self.inner
first = getattr(self, "0")
return (inner).forward((first).forward(x, 0.5, [1], "m", None, ), 0.1, )""",
    "functions": "_0 = __torch__.m.helper\ny = __torch__.m.helper(x, )\nreturn _0(y, )",
    "conditions": """
bias = self.inner
b = bias.bias
if torch.__is__(b, None):
  y = x
else:
  b0 = unchecked_cast(Tensor, b)
  y = torch.add(x, b0, alpha=1)
return y""",
    "shortcuts": "y = x\n" + "y = torch.add(y, torch.relu(y))\n" * 50 + "return y",
    "shortcuts of methods": "i = self.inner\ny = x\n"
    + "y = torch.add((i).forward(y, 0.5, [1], \"m\", None, ), y)\n" * 50
    + "return torch.mul(y, CONSTANTS.c0)",
    "lists": "ys = [x, x]\n"
    + "z = torch.add(ys[0], ys[1])\nsizes = torch.add(torch.slice(torch.size(x), 0, 2), [-1])\n" * 50
    + "return z",
    "messages": 's = "{} {}"\n'
    + 't = torch.add("Error: ", torch.format(s, torch.size(x), 3))\n' * 50
    + "return x",
    "repeated": "l = torch.mul([1], 4)\n" * 50 + "return x",
    "loops": """
y = x
size = torch.size(x)
for i in range(torch.sub(torch.len(size), 2)):
  for j in range(3):
    y0 = torch.mul(y, size[torch.add(i, 2)])
    y = y0
return y""",
    "loop that may be left": """
n = torch.len(torch.size(x))
found = False
i = 0
more = torch.gt(n, 0)
while more:
  if torch.eq(i, 2):
    go, found0 = False, True
  else:
    go, found0 = True, False
  i0 = torch.add(i, 1)
  more0 = torch.__and__(torch.lt(i0, n), go)
  more, found, i = more0, found0, i0
return x""",
    "values": """
_0 = annotate(List[Tensor], [])
_1 = {"a": x, "b": torch.neg(x)}
_2, _3, = torch.size(x)
_4 = (torch.size(x))[0:-1]
_5 = torch.masked_fill(x, CONSTANTS.c0, -inf)
_6 = __torch__.m.Pair(x, x)
_7 = int(torch.slice(x, 0, 0, 9223372036854775807))
_8 = uninitialized(bool)
_10 = torch.split_with_sizes(x, [600, 600, 600, 600], 1)
_9 = annotate(List[int], (x).tolist())
ops.prim.RaiseException(torch.format("{} is \\n not", _7), "builtins.ValueError")
return _5""",
    "enumerations": "way = self.way\n_0 = (way).value\n_1 = __torch__.m.Way.UP\nreturn x",
    "state": "inner = self.inner\ninner.weight = x\nreturn x",
}  # fmt: skip


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED)
def test_what_torch_writes(body):
    code = read(body.strip())
    assert code.classes["__torch__.m.Net"].attributes["0"] == Type("__torch__.m.Inner")
    assert code.classes["__torch__.m.Inner"].attributes["bias"] == Type("Optional", (Type("Tensor"),))
    check_operators(code.used)


def test_what_is_used_is_told_with_its_place():
    used = read("return torch.relu(ops.prim.NumToTensor(int(x)))").used
    assert {"torch.relu", "ops.prim.NumToTensor", "int", "Tensor", "torch.mul"} <= used.keys()
    assert used["torch.relu"] == "code/__torch__/m.py"


def twice(what):
    return HEAD + what


#: Rule → (body, what else is different).
def chain(count):
    """Operators in a row."""
    return "y = x\n" + "y = torch.relu(y)\n" * (count - 1) + "return torch.relu(y)"


def doubling(first, then):
    return f"{first}\n" + f"{then}\n" * 9 + "return x"


def handed(call, kind="str", made="y", text="x"):
    """Functions that double a text and hand it on to the next."""
    functions = f"def s0(x: {kind}) -> int:\n  return 1\n"
    for i in range(1, 10):
        functions += (
            f'def s{i}(x: {kind}) -> int:\n  y = torch.format("{{}}{{}}", {text}, {text})\n'
            f"  z = {call}{i - 1}({made}, )\n  return z\n"
        )
    return functions


def nested(line):
    """A list of two lists, each of which is one."""
    lines = (line.format(i=i, j=i + 1) for i in range(20))
    return "\n".join(["l0 = [x, x]", *lines, 'm = torch.format("{}", l20)'])


HOSTILE = {
    "014 state": ("return x", {"head": HEAD.replace("def forward(self", "def __setstate__(self", 1)}),
    "019 default argument": ("return x", {"head": HEAD.replace("p: float=0.5", "p: float=torch.rand([1])")}),
    "019 hidden in a list": ("return x", {"head": HEAD.replace("=[2, 3]", "=[2, float(torch.save(x))]")}),
    "019 value of a class": ("return x", {"head": HEAD.replace("= (1, 1)", "= (1, torch.len([1]))")}),
    "019 value of an enumeration": ("return x", {"head": HEAD.replace('UP = "up"', "UP = helper(1)")}),
    "019 a name": ("return x", {"head": HEAD.replace("=0.5", "=weight")}),
    "020 alias": ("f = torch.save\nreturn x", {}),
    "020 alias of a package": ("f = ops.aten\nreturn x", {}),
    "020 in a list": ("f = [torch.relu, ]\nreturn x", {}),
    "020 as a variable": ("torch = x\nreturn x", {}),
    "020 as an argument": ("y = torch.relu(torch.save)\nreturn x", {}),
    "021 class": ("return x", {"head": twice("class Inner(Module):\n  __parameters__ = []\n")}),
    "021 function": ("return x", {"head": twice("def helper(x: Tensor) -> Tensor:\n  return x\n")}),
    "021 attribute": ("return x", {"head": HEAD.replace("  sizes : List[int]\n", "  weight : List[int]\n")}),
    "022 tensor": ("return torch.zeros([100000, 100000])", {}),
    "022 number": ("return torch.arange(10000000000)", {}),
    "022 loops": ("for i in range(10000):\n  for j in range(10000):\n    y = torch.relu(x)\nreturn x", {}),
    "022 loops without operators": (
        "for i in range(10000):\n  for j in range(10000):\n    y = [x, x]\nreturn x", {}
    ),
    "022 loops of a computed length": (
        "n = torch.mul(torch.len(torch.size(x)), 100000000)\nfor i in range(n):\n  y = torch.relu(x)\nreturn x", {}
    ),
    "022 brackets": ("return " + "(" * 60 + "x" + ")" * 60, {}),
    "022 blocks": ("\n".join(" " * i + "if x:" for i in range(60)) + "\n" + " " * 60 + "pass", {}),
    "022 empty lines": ("\n" * 50 + "return x", {}),
    "022 operators": (chain(16_001), {}),
    "022 lists that double": (doubling("l = [x, x]", "l = torch.add(l, l)"), {}),
    "022 lists of numbers": (doubling("l = torch.size(x)", "l = torch.add(l, torch.slice(l))"), {}),
    "022 lists that grow": (doubling("l = [x, x]", "torch.extend(l, l)"), {}),
    "022 lists that grow in place": (doubling("l = [x, x]", "l = torch.add_(l, l)"), {}),
    "022 lists that are repeated": (doubling("l = [x, x]", "l = torch.mul(l, 9)"), {}),
    "022 a list that is repeated": ("l = torch.mul([1], 200000000)\nreturn x", {}),
    "022 lists in a loop": ("l = [x, x]\nfor i in range(9):\n  l = torch.add(l, l)\nreturn x", {}),
    "022 lists of a list": (doubling("m = [[x, x]]", "m = [torch.add(m[0], m[0])]"), {}),
    "022 lists out of a pair": (doubling("l = [x, x]", "l, k = torch.add(l, l), 1\nl, k = (l, k)"), {}),
    "022 lists of a function": (
        doubling("l = [x, x]", "l = __torch__.m.twice(l, )"),
        {"head": HEAD + "def twice(l: List[Tensor]) -> List[Tensor]:\n  return torch.add(l, l)\n"}
    ),
    "022 lists of a function in a variable": (
        "f = __torch__.m.twice\n" + doubling("l = [x, x]", "l = torch.add(f(l, ), f(l, ))"),
        {"head": HEAD + "def twice(l: List[Tensor]) -> List[Tensor]:\n  return l\n"}
    ),
    "022 lists of an attribute": (doubling("i = self.inner", "i.sizes = torch.add(i.sizes, i.sizes)"), {}),
    "022 texts": (doubling('s = "a"', "s = torch.add(s, s)"), {}),
    "022 texts that are filled in": (doubling('s = torch.format("a")', 's = torch.format("{}{}", s, s)'), {}),
    "022 texts that are handed on": ("y = __torch__.m.s9(\"a\", )\nreturn x", {"head": HEAD + handed("__torch__.m.s")}),
    "022 texts that are handed on in a pair": (
        "y = __torch__.m.s9(\"a\", )\nreturn x",
        {"head": HEAD + "class Texts(NamedTuple):\n  text : str\n"
         + handed("__torch__.m.s", "__torch__.m.Texts", "__torch__.m.Texts(y)", "(x).text")}
    ),
    "022 lists in lists": (nested("l{j} = [l{i}, l{i}]") + "\nreturn x", {}),
    "022 lists in pairs": (nested("l{j} = (l{i}, l{i})") + "\nreturn x", {}),
    "022 lists in dictionaries": (nested('l{j} = {{"a": l{i}, "b": l{i}}}') + "\nreturn x", {}),
    "022 lists put into lists": (
        nested("l{j} = [l{i}]\ntorch.append(l{j}, l{i})") + "\nreturn x", {}
    ),
    "022 length": ("\n".join(["y = torch.relu(x)"] * 60_000), {}),
}  # fmt: skip


@pytest.mark.parametrize(("name", "case"), HOSTILE.items(), ids=HOSTILE)
def test_what_only_an_attacker_writes(name, case):
    with pytest.raises(Hostile) as caught:
        read(case[0], **case[1])
    assert caught.value.rule == f"WIPER-TS-{name[:3]}"


def layers(count, body):
    """Functions that call the same one, one after the other."""
    lines = "".join(f"  {line}\n" for line in body.split("\n"))
    calls = "  x = __torch__.m.layer(x, )\n" * count
    return f"{HEAD}def layer(x: Tensor) -> Tensor:\n{lines}def all(x: Tensor) -> Tensor:\n{calls}  return x\n"


def test_many_layers_that_share_their_code_are_a_large_network_and_no_bomb():
    """torchvision's larger vision transformers, scripted."""
    with pytest.raises(Unsupported, match=r"24024 operators .* Trace the network"):
        read(head=layers(24, chain(1001)))
    with pytest.raises(Hostile) as caught:
        read(head=layers(100, chain(1001)))
    assert caught.value.rule == "WIPER-TS-022"


def test_a_message_that_each_layer_makes_for_itself_is_no_doubling():
    made = 's = torch.format("{}{}", "a", "b")\ns = torch.format("{}{}", s, s)\nreturn x'
    read(head=layers(24, made))
    doubled = "l = torch.size(x)\nl = torch.add(l, torch.slice(l))\nreturn torch.reshape(x, l)"
    with pytest.raises(Hostile, match="joins lists or strings"):
        read(head=layers(24, doubled))


def message(i, made='torch.format("{}{}", a{i}, b{i})'):
    """A text of two that are made for it, and what ends in an error."""
    lines = f'a{i} = torch.format("{{}}", x)\nb{i} = a{i}\nif True:\n  c{i} = {made}\nelse:\n  c{i} = b{i}\n'
    return lines.replace("{i}", str(i)) + f'ops.prim.RaiseException(torch.add("Error: ", c{i}))\n'


def test_messages_that_a_function_makes_side_by_side_are_no_doubling():
    """torchvision's vit_b_32, scripted and frozen, whose twelve layers stand in one function."""
    read("".join(map(message, range(50))) + "return x")


#: How a text goes on from one line to the next; each doubles it.
CHAINED = {
    "in order": "s{j} = torch.format(\"{}{}\", s{i}, s{i})",
    "by another name": "t{i} = s{i}\ns{j} = torch.format(\"{}{}\", t{i}, s{i})",
    "in each other": "s{j} = torch.add(\"a\", torch.format(\"{}{}\", s{i}, s{i}))",
    "as what is filled in": "s{j} = torch.format(s{i}, s{i}, s{i})",
    "through a list": "l{i} = [s{i}]\ns{j} = torch.format(\"{}{}\", l{i}[0], s{i})",
    "through a list that grows": "_{i} = torch.append(l, s{i})\ns{j} = torch.format(\"{}{}\", l[-1], l[-1])",
    "through a pair": "t{i}, u{i} = (s{i}, s{i})\nv{i} = (t{i}, u{i})\ns{j} = torch.format(\"{}{}\", v{i}[0], t{i})",
    "through a function": "s{j} = __torch__.m.same(torch.format(\"{}{}\", s{i}, s{i}), )",
    "through a condition": "if True:\n  t{i} = s{i}\nelse:\n  t{i} = \"a\"\ns{j} = torch.format(\"{}{}\", t{i}, t{i})",
    "through an annotation": "t{i} = annotate(str, s{i})\ns{j} = torch.format(\"{}{}\", t{i}, t{i})",
    "beside messages": message("{i}") + "s{j} = torch.format(\"{}{}\", s{i}, s{i})",
}  # fmt: skip
SAME = HEAD + "def same(s: str) -> str:\n  return s\n"


@pytest.mark.parametrize("line", CHAINED.values(), ids=CHAINED)
def test_texts_that_double_one_after_the_other(line):
    def body(count):
        first = 's0 = torch.format("{}", x)\nl = annotate(List[str], [])\n'
        lines = "".join(line.replace("{i}", str(i)).replace("{j}", str(i + 1)) + "\n" for i in range(count))
        return f"{first}{lines}n = torch.len(s{count})\nreturn x"

    read(body(1), head=SAME)
    with pytest.raises(Hostile, match="joins lists or strings") as caught:
        read(body(5), head=SAME)
    assert caught.value.rule == "WIPER-TS-022"


def test_texts_that_double_in_a_loop():
    with pytest.raises(Hostile, match="joins lists or strings"):
        read(
            's = torch.format("{}", x)\nfor i in range(9):\n  t = torch.format("{}{}", s, s)\n  s = t\nreturn x'
        )


@pytest.mark.parametrize("depth", [21, 200])
def test_functions_that_multiply_or_nest(depth):
    calls = 2 if depth == 21 else 1
    head = "def f0(x: Tensor) -> Tensor:\n  return torch.relu(x)\n"
    for i in range(1, depth):
        inner = f"__torch__.m.f{i - 1}(" * calls + "x, " + "), " * calls
        head += f"def f{i}(x: Tensor) -> Tensor:\n  return {inner[:-2]}\n"
    with pytest.raises(Hostile) as caught:
        read(head=HEAD + head)
    assert caught.value.rule == "WIPER-TS-022"


#: The innermost of functions that call the one below them twice, none of which holds an operator.
SMALL = {
    "a list": "  z = [x, x]\n  return x",
    "a condition": "  if True:\n    z = x\n  else:\n    z = x\n  return z",
    "a part": "  z = [x, x]\n  return z[0]",
    "nothing": "  return x",
}


@pytest.mark.parametrize("body", SMALL.values(), ids=SMALL)
def test_functions_without_operators_that_multiply(body):
    def head(depth):
        functions = f"def f0(x: Tensor) -> Tensor:\n{body}\n"
        for i in range(1, depth):
            call = f"__torch__.m.f{i - 1}"
            functions += f"def f{i}(x: Tensor) -> Tensor:\n  y = {call}(x, )\n  z = {call}(y, )\n  return z\n"
        return HEAD + functions

    read(head=head(10))
    with pytest.raises(Hostile, match="lines and expressions") as caught:
        read(head=head(18))
    assert caught.value.rule == "WIPER-TS-022"


def test_a_function_that_calls_itself():
    with pytest.raises(Hostile, match="calls functions"):
        read(head=HEAD + "def again(x: Tensor) -> Tensor:\n  return __torch__.m.again(x, )\n")


def test_code_without_end_is_not_read(monkeypatch):
    monkeypatch.setattr(limits, "MAX_CODE", 100)
    with pytest.raises(Hostile, match="longer than 100"):
        read()


#: What torch's lexer and parser take otherwise than Python's, what torch never writes, and what it writes for
#: networks that are no classifiers.
def method(text):
    return HEAD.replace("class Pair", f"  def {text}\nclass Pair")


def function(text):
    return f"{HEAD}def {text}\n"


#: What torch resolves to another method, or calls where no call stands: the work of such code cannot be counted.
SHADOWED = {
    "torch": function("f(torch: __torch__.m.Inner, x: Tensor) -> Tensor:\n  return torch.relu(x)"),
    "CONSTANTS": function("f(CONSTANTS: Tensor) -> Tensor:\n  return CONSTANTS"),
    "range": function("f(x: Tensor, range: int) -> Tensor:\n  return x"),
    "a parameter twice": function("f(x: Tensor, x: __torch__.m.Inner) -> Tensor:\n  return x"),
    "self of another class": HEAD.replace("self: __torch__.m.Inner", "self: __torch__.m.Pair"),
    "self by another name": HEAD.replace("self: __torch__.m.Inner", "me: __torch__.m.Pair"),
    "self twice": HEAD.replace("x: Tensor,", "x: Tensor, self: __torch__.m.Pair,", 1),
    "tolist": method("tolist(self: __torch__.m.Inner) -> int:\n    return 1"),
    "a cast": method("__float__(self: __torch__.m.Inner) -> float:\n    return 1.0"),
    "a subscript": method("__getitem__(self: __torch__.m.Inner, i: int) -> int:\n    return i"),
    "a comparison": method("__lt__(self: __torch__.m.Inner, o: __torch__.m.Inner) -> bool:\n    return True"),
}


@pytest.mark.parametrize("head", SHADOWED.values(), ids=SHADOWED)
def test_a_name_means_what_torch_takes_it_for(head):
    with pytest.raises(Unsupported, match="torch does not write"):
        read(head=head)


HELPS = "  def helps(self: __torch__.m.Net) -> int:\n    return 1\n"
#: What torch runs though no code names it, or in the place of what the code names.
HEADS = {
    "hook": ("runs 'bad' around forward", '  __forward_hooks__ = ["bad", ]\n'),
    "hook before": ("runs 'bad' around forward", '  __forward_pre_hooks__ = ["bad", ]\n'),
    "hooks, the last of which counts": ("runs 'bad'", '  __forward_hooks__ = []\n  __forward_hooks__ = ["bad", ]\n'),
    "unknown head": ("does not write", '  __forward_later__ = ["bad", ]\n'),
    "value without a type": ("does not write", "  k = 1\n"),
    "annotated hook": ("does not write", '  __forward_hooks__["0"] = Tensor\n'),
    "attribute for a method": ("in the place", "  helps : __torch__.m.Inner\n"),
    "attribute for forward": ("in the place", '  __annotations__["forward"] = __torch__.m.Inner\n'),
    "attribute for hooks": ("in the place", "  _forward_hooks : __torch__.m.Inner\n"),
    "method for hooks": ("in the place", "  def _forward_hooks(self: __torch__.m.Net) -> int:\n    return 1\n"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "head"), HEADS.values(), ids=HEADS)
def test_what_runs_without_a_call(words, head):
    read(net=NET.replace("  def forward", f"  __forward_hooks__ = []\n{HELPS}  def forward"))
    with pytest.raises(Unsupported, match=words):
        read(net=NET.replace("  def forward", f"{head}{HELPS}  def forward"))


def test_what_torch_keeps_in_a_module(tmp_path):
    import torch

    path = tmp_path / "m.pt"
    torch.jit.trace(torch.nn.Flatten().eval(), torch.ones(1, 2)).save(path)
    kept = torch.jit.load(path).__dict__.keys()
    assert {
        name for name in kept if name != "_is_full_backward_hook"
    } <= limits.KEPT  # honest files hold that one


UNSUPPORTED = [
    "while True:\n  y = x\nreturn x", "y = True\nwhile y:\n  z = torch.relu(x)\nreturn x",
    "# type: (int) -> int\nreturn x", "return x # end", "return \\\nx", "return\tx", "return x\r",
    "return 'x'", "return f\"x\"", "return \"\\xff\"", "return \"\\u0041\"", "return 0x10", "return 1_000",
    "return 1j", "return \"é\"", "y = x; return y", "return x + x", "return not x", "return x if x else x",
    "return lambda: x", "return [y for y in x]", "p = print\nreturn x", "import os", "del x", "raise x",
    "assert x", "global x", "y = z = x\nreturn y", "def f(y: int) -> int:\n  return y\nreturn x",
    "with x:\n  pass\nreturn x", "for y in x:\n  pass\nreturn x", "return unknown", "return unknown(x, )",
    "return fork(x)", "x.set_(x)\nreturn x", "y = (x).set_(x)\nreturn x", "y = x.data\nreturn y",
    "y = getattr(x, \"data\")\nreturn y", "y = getattr(torch, \"save\")\nreturn y",
    "y = self.nothing\nreturn y", "y = (self).nothing(x)\nreturn y",
    "inner = self.inner\ninner = x\nreturn (inner).forward(x, )", "y = __torch__.m.nothing(x, )\nreturn y",
    "y = __torch__.m.Inner(x, )\nreturn y", "y = annotate(__torch__.m.Nothing, x)\nreturn y",
    "y = annotate(__torch__.torch.classes.rnn.Cell, x)\nreturn y", "self = x\nreturn x", "return x.",
    "return (x", "return x)", "if x:\nreturn x", "else:\n  return x", "return torch.relu(x) torch.relu(x)",
    "y = __torch__.m.Way.DOWN\nreturn x", "y = - x\nreturn y", "return x[", "x\nreturn x",
    "return \"a\" \"b\"", "import __torch__.m",
]  # fmt: skip


@pytest.mark.parametrize("body", UNSUPPORTED)
def test_what_torch_does_not_write(body):
    with pytest.raises(Unsupported):
        check_operators(read(body).used)


def end(n="n", k="i0", first="i = 0", last="more, i = more0, i0", inside="pass"):
    return (
        f"n = torch.len(torch.size(x))\n{first}\nmore = True\nwhile more:\n  {inside}\n  i0 = torch.add(i, 1)\n  "
        + (f"more0 = torch.__and__(torch.lt({k}, {n}), True)\n  {last}\nreturn x")
    )


UNBOUNDED = [
    {"k": "i"}, {"last": "i, more = more0, i0"}, {"last": "more, i, n = more0, i0, i0"},
    {"inside": "n = torch.add(n, 1)"}, {"inside": "for n in range(3):\n    pass"}, {"inside": "i = 0"},
    {"first": "i = -100000"}, {"first": "i = torch.neg(n)"},
]  # fmt: skip


@pytest.mark.parametrize("changed", UNBOUNDED)
def test_loops_that_only_look_bounded(changed):
    read(end())
    with pytest.raises(Unsupported, match="not bounded"):
        read(end(**changed))


def test_files_of_torch_1_begin_otherwise():
    old = {
        "code/__torch__/m.py": b"op_version_set = 1\nimport __torch__.other\n"
        + files("return x")["code/__torch__/m.py"]
    }
    assert "__torch__.m.Net" in read_code(old).classes


def test_damage_is_refused_in_a_sentence():
    body = "\n".join(
        ACCEPTED[name].strip().replace("return", "_z =") for name in ("submodules", "conditions", "loops")
    )
    whole = files(body)["code/__torch__/m.py"]
    read(body)
    dice, refused = random.Random(0), 0
    for _ in range(1500):
        changed = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            changed[dice.randrange(len(changed))] = dice.choice(b"()[]{}.,:=- \n\"\\x0_'#\t\xff")
        try:
            read_code({"code/__torch__/m.py": bytes(changed)})
        except FormatError:
            refused += 1
    assert 500 < refused < 1500


def test_types_of_pickles():
    assert read_type("Dict[str, List[int]]") == Type("Dict", (Type("str"), Type("List", (Type("int"),))))
    for wrong in ("", "List[", "a b", "x" * 2000, 7, "List[" * 100, "é"):
        with pytest.raises(ValueError, match="no type"):
            read_type(wrong)


def test_operators_that_reach_beyond_the_network():
    for name in (
        "torch.save",
        "torch.from_file",
        "ops.inductor._alloc_from_pool",
        "ops.c10d.send",
        "ops.mkldnn.data_ptr",
    ):
        with pytest.raises(Hostile, match=name) as caught:
            check_operators({"torch.relu": "a", name: "b", "torch.unheard": "c"})
        assert (caught.value.rule, caught.value.place) == ("WIPER-TS-020", "b")
    for name in (
        "torch.unheard",
        "torch.manual_seed",
        "torch.autograd.save",
        "print",
        "Future",
        "ops.aten.relu",
    ):
        with pytest.raises(Unsupported, match=name):
            check_operators({name: "a"})


def test_the_lists_hold_operators_of_torch_and_none_that_reaches_beyond():
    import torch

    known = {f"torch.{schema.name.removeprefix('aten::')}" for schema in torch._C._jit_get_all_schemas()}
    reference = json.loads(PATH.read_bytes())["used"]
    assert {f"torch.{name}" for name in REVIEWED} <= known
    assert {name for name in reference if name.startswith("torch.")} <= known
    assert not {
        name for name in allowed() if any(word in name for word in ("save", "load", "file", "seed", "print"))
    }


@pytest.mark.slow
def test_the_list_holds_what_reference_models_use():
    """As the list was made, on two models of it."""
    from formats.torchscript.make_operators import TIMM, TORCHVISION, used

    assert "squeezenet1_0" in TORCHVISION
    assert "test_vit" in TIMM
    found = used(["squeezenet1_0"], ["test_vit"])
    assert "torch.scaled_dot_product_attention" in found
    assert "torch._convolution" in found
    assert found <= set(json.loads(PATH.read_bytes())["used"])
