"""Every hostile file that the tests make, and what the gate has to say of it: name → :class:`Case`.

The tables stand with the readers that they are about. Here each row becomes a whole file in a folder of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
import onnx
import tiny_onnx as tiny
import torch
from onnx import helper, numpy_helper
from safetensors.torch import save
from torchscript_files import archive, headers, member, module, network, rezip, tensor, text

from formats.torchscript.central import read_archive
from tests.formats import test_identify, test_polyglot
from tests.formats.onnx import test_bounds, test_manifest, test_messages, test_payload
from tests.formats.safetensors import test_manifest as test_header
from tests.formats.torchscript import test_central, test_code, test_pickles
from tests.formats.torchscript import test_manifest as test_archive

UNREADABLE, UNSUPPORTED = "2", "3"


class Case(NamedTuple):
    """``expected``: a rule, whose exit code is 1, or the exit code. ``beside``: files in the model's folder."""

    expected: str
    data: bytes
    beside: Mapping[str, bytes] = {}


def safetensors():
    """Headers that lie."""
    for name, (rule, data) in test_header.HOSTILE.items():
        yield name, Case(UNREADABLE if name == "no object" else f"WIPER-ST-{rule}", data)
    for filling in (b"{}", b"[]", b'{"dtype":"U8"}', b"1", b'"a"'):
        header = b'{"__metadata__":{},"a":[' + b",".join([filling] * 100_000) + b"]}"
        yield f"a header full of {filling}", Case("WIPER-ST-005", test_header.container(header, b""))
    whole = save({"a": torch.arange(5.0)})
    for size in (9, 30, len(whole) - 20, len(whole) - 1):
        yield f"cut after {size} bytes", Case(UNREADABLE, whole[:size])


def onnx_messages():
    """Bytes that are no message, or two."""
    for data, rule in test_messages.MALFORMED:
        yield data[:40].hex(), Case(f"WIPER-ONNX-{rule}", data)
    field, node, model = test_messages.field, test_messages.node, test_messages.model
    for name, data in {
        "model": model(more=field(99, b"x")), "node": model(node(field(99, b"x"))),
        "tensor": model(field(5, field(99, b"x"))), "a long text": model(node(field(1, b"x" * (2**24 + 1)))),
    }.items():  # fmt: skip
        yield name, Case(UNSUPPORTED, data)
    deep = b""
    for _ in range(40):
        deep = node(field(5, field(6, deep)))
    whole = tiny.classifier().SerializeToString()
    yield "deep", Case("WIPER-ONNX-002", model(deep))
    yield "twice", Case("WIPER-ONNX-010", whole * 2)
    for size in (40, len(whole) // 2, len(whole) - 1):
        yield f"cut after {size} bytes", Case(UNREADABLE, whole[:size])


def onnx_tensors():
    """Payloads that do not fit, or lie where no tensor may."""

    for number, (one, rule) in enumerate(test_payload.MISFITS):
        model = tiny.make_model(tiny.nodes("Flatten x > y"), {})
        model.graph.initializer.append(one)
        yield f"payload {number}", Case(f"WIPER-ONNX-{rule}", model.SerializeToString(), {"a.data": bytes(4)})
    for key, value, rule in test_manifest.KEYS:
        yield f"{key} {value}", Case(rule, *test_manifest.keyed(key, value))
    for number, (rule, change) in enumerate(test_manifest.CONTRADICTIONS):
        model = tiny.classifier()
        change(model.graph.initializer)
        yield f"initializer {number}", Case(f"WIPER-ONNX-{rule}", model.SerializeToString())
    wrong = numpy_helper.from_array(tiny.array(0, 2), "t")
    wrong.dims[0] = 3
    for place, model in test_manifest.anywhere(test_manifest.outside()).items():
        yield (
            f"external, {place}",
            Case("WIPER-ONNX-012", model.SerializeToString(), {"weights.data": b"1234"}),
        )
    for place, model in test_manifest.anywhere(wrong).items():
        yield f"wrong, {place}", Case("WIPER-ONNX-005", model.SerializeToString())
    right = numpy_helper.from_array(tiny.array(0, 1), "t")
    for place in ("sparse initializer", "training"):
        yield place, Case(UNSUPPORTED, test_manifest.anywhere(right)[place].SerializeToString())
    for name, change in {
        "opsets": ("003", lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 13))),
        "inputs": ("003", lambda m: m.graph.input.append(m.graph.input[0])),
        "overridden": ("004", lambda m: m.graph.input.append(
            helper.make_tensor_value_info("fc.bias", onnx.TensorProto.FLOAT, [4]))),
    }.items():  # fmt: skip
        model = tiny.classifier()
        change[1](model)
        yield name, Case(f"WIPER-ONNX-{change[0]}", model.SerializeToString())


def onnx_graphs():
    """Graphs that would cost much, run something, or mean two things."""
    ending, node, loop = test_bounds.ending, helper.make_node, test_bounds.loop
    graph, imports = test_bounds.graph, test_bounds.IMPORTS
    for name, (nodes, initializers) in test_bounds.BOMBS.items():
        yield name, Case("WIPER-ONNX-016", ending(tiny.nodes(nodes), initializers).SerializeToString())
    for kind, value in test_bounds.ATTRIBUTES:
        model = ending([node("Softmax", ["x"], ["z"])], {})
        model.graph.node[0].attribute.add(
            name="axis", type=onnx.AttributeProto.AttributeType.Value(kind), **value
        )
        yield f"attribute {kind} {value}", Case("WIPER-ONNX-014", model.SerializeToString())
    one = helper.make_function("l", "F", ["a"], ["b"], [node("Neg", ["a"], ["b"])], imports)
    outer = helper.make_function("l", "F", ["a"], ["b"], [node("Add", ["a", "x"], ["b"])], imports)
    call = [node("F", ["x"], ["z"], domain="l")]
    turn, truth = [("Relu", ["s"], ["t"])], {"t": np.array(True)}
    missing = graph([("Add", ["x", "nothing"], ["a"])], "a")
    found = {
        "two functions": ("WIPER-ONNX-003", (call, {}, [one, one])),
        "nothing makes it": (UNSUPPORTED, ([node("Add", ["x", "nothing"], ["z"])], {})),
        "nothing in a branch": (UNSUPPORTED, ([node("If", ["t"], ["z"], then_branch=missing)], truth)),
        "a function looks out": (UNSUPPORTED, (call, {}, [outer])),
        "no end": (UNSUPPORTED, ([loop("turns", turn)], {"turns": np.array(2**62)})),
        "no count": (UNSUPPORTED, ([loop("", turn)], {})),
        "computed count": (UNSUPPORTED, ([node("Size", ["x"], ["turns"]), loop("turns", turn)], {})),
    }
    for depth, through in ((29, True), (60, True), (60, False)):
        nodes = [node(f"F{depth}", ["x"], ["z"], domain="l")]
        doubled = test_bounds.doubling(depth, through)
        found[f"doubling {depth} {through}"] = "WIPER-ONNX-011", (nodes, {}, doubled)
    again = graph([("F1", ["a"], ["p"])], "p")
    for way, nodes in {
        "itself": [node("F1", ["a"], ["o"], domain="l")],
        "itself in a branch": [node("If", ["a"], ["o"], then_branch=again)],
    }.items():
        function = helper.make_function("l", "F1", ["a"], ["o"], nodes, imports)
        found[way] = "WIPER-ONNX-011", ([node("F1", ["x"], ["z"], domain="l")], {}, [function])
    for domain in ("com.microsoft", "org.pytorch.aten", "ai.onnx.contrib", "l"):
        found[f"a program, {domain}"] = (
            "WIPER-ONNX-015",
            ([node("PythonOp", ["x"], ["z"], domain=domain)], {}),
        )
    for domain in ("", "com.microsoft", "somebody"):
        found[f"unknown, {domain}"] = UNSUPPORTED, ([node("RegexFullMatch", ["x"], ["z"], domain=domain)], {})
    for domain in ("", "ai.onnx", "com.microsoft"):
        relu = helper.make_function(domain, "Relu", ["a"], ["b"], [node("Neg", ["a"], ["b"])], imports)
        found[f"for an operator, {domain}"] = "WIPER-ONNX-013", ([node("Relu", ["x"], ["z"])], {}, [relu])
    for name, (expected, parts) in found.items():
        yield name, Case(expected, ending(*parts).SerializeToString())


@cache
def plain() -> bytes:
    """The archive that is damaged."""
    return archive(network("cnn"), "scripted")


def repacked(pickle: bytes, code: Mapping[str, bytes]) -> bytes:
    """An archive of this pickle and this code beside one record of six floats, which pickle and code use."""
    files: dict[str, bytes | None] = {f"data/{i}": bytes(24) if i == 0 else None for i in range(20)}
    return rezip(plain(), files | {"data.pkl": b"\x80\x02" + pickle + b"."} | dict(code))


def with_code(code: Mapping[str, bytes]) -> bytes:
    """An archive whose network is the ``Net`` of the reader's tests."""
    inner = text("weight") + tensor() + text("bias") + b"N" + text("sizes") + b"](K\x01e"
    inner = module(inner, "__torch__.m.Inner")
    way = b"c__torch__.m\nWay\n" + text("up") + b"R"
    parts = text("0") + inner + text("inner") + inner + text("way") + way
    return repacked(module(parts, "__torch__.m.Net"), code)


def torchscript_code():
    """Code that runs while it is loaded, reaches out, never ends, or that torch does not write."""
    for name, (body, more) in test_code.HOSTILE.items():
        yield name, Case(f"WIPER-TS-{name[:3]}", with_code(test_code.files(body, **more)))
    for number, body in enumerate(test_code.UNSUPPORTED):
        yield f"unknown {number}", Case(UNSUPPORTED, with_code(test_code.files(body)))
    for name, head in test_code.SHADOWED.items():
        yield f"shadowed {name}", Case(UNSUPPORTED, with_code(test_code.files("return x", head=head)))
    for name, (_, head) in test_code.HEADS.items():
        net = test_code.NET.replace("  def forward", f"{head}{test_code.HELPS}  def forward")
        yield name, Case(UNSUPPORTED, with_code(test_code.files("return x", net=net)))
    for number, changed in enumerate(test_code.UNBOUNDED):
        yield f"loop {number}", Case(UNSUPPORTED, with_code(test_code.files(test_code.end(**changed))))
    name, code = test_archive.code_member(plain())
    for what, (rule, old, new) in test_archive.CODE.items():
        yield what, Case(f"WIPER-TS-{rule}", rezip(plain(), {name: code.replace(old, new, 1)}))
    for number, (old, new, _) in enumerate(test_archive.UNKNOWN_CODE):
        yield f"changed {number}", Case(UNSUPPORTED, rezip(plain(), {name: code.replace(old, new, 1)}))
    for operator in ("from_file", "load", "set_num_threads", "print", "unheard"):
        hostile = operator in ("from_file", "load")
        changed = code.replace(b"torch.relu(", f"torch.{operator}(".encode(), 1)
        yield operator, Case("WIPER-TS-020" if hostile else UNSUPPORTED, rezip(plain(), {name: changed}))


def torchscript_pickles():
    """Pickles that call, lie about records, or that torch reads otherwise."""
    classes = {"code/__torch__.py": PICKLED}
    for kind, (rule, bodies) in test_pickles.REFUSED.items():
        for number, body in enumerate(bodies):
            yield f"{kind} {number}", Case(f"WIPER-TS-{rule}", repacked(body, classes))
    for number, body in enumerate(test_pickles.WRONGLY_TYPED):
        yield f"type {number}", Case("WIPER-TS-010", repacked(body, classes))
    pickle = member(plain(), "data.pkl")
    for what, (rule, old, new) in test_archive.PICKLES.items():
        changed = rezip(plain(), {"data.pkl": pickle.replace(old, new, 1)})
        yield what, Case(f"WIPER-TS-{rule}", changed)
    for rule, state in (
        ("018", text("a") + module(text("w") + tensor()) + text("a.w") + tensor()),
        ("016", text("a") + module(text("w") + tensor()) + text("b") + tensor(kind="IntStorage")),
        ("016", text("a") + module(text("w") + tensor()) + text("b") + tensor(kind="HalfStorage", count=12)),
    ):
        net = (
            PICKLED.replace(b"  b : Tensor\n", b'  __annotations__["a.w"] = Tensor\n')
            if rule == "018"
            else PICKLED
        )
        found = repacked(module(state, "__torch__.Net"), {"code/__torch__.py": net})
        yield f"{rule} {len(state)}", Case(f"WIPER-TS-{rule}", found)
    dims = b"K\x01q\0" + b"h\0" * 1000
    yield "dimensions", Case("WIPER-TS-010", repacked(tensor(size=dims, stride=dims), classes))
    quantised = b"ctorch._utils\n_rebuild_qtensor\n"
    yield "quantised", Case(UNSUPPORTED, repacked(quantised, classes))


#: What :data:`tests.formats.torchscript.test_pickles.CLASSES` declares.
PICKLED = b"""\
class Net(Module):
  a : __torch__.Inner
  b : Tensor
class Inner(Module):
  w : Tensor
class Lists(Module):
  list : List[Tensor]
  n : int
  o : Optional[float]
  d : Dict[str, Tuple[int, bool]]
class Me(Module):
  me : __torch__.Me
"""


def torchscript_members():
    """Members that are not what they seem."""
    for name in ("evil.so", "data/x", "code/run.sh", "data.pkl.bak", "extra.pkl", "DATA/0x"):
        yield name, Case("WIPER-TS-009", rezip(plain(), {name: b"\x7fELF"}))
    for name in (
        "../evil",
        "/etc/passwd",
        "code/../../x",
        "code//x.py",
        "a\\b",
        "c:x",
        "é",
        "code/" + "x" * 510 + ".py",
    ):
        yield name, Case("WIPER-TS-005", rezip(plain(), {name: b"x"}))
    for number, (changes, _) in enumerate(test_archive.UNKNOWN_MEMBERS):
        yield f"unknown {number}", Case(UNSUPPORTED, rezip(plain(), changes))
    record = member(plain(), "data/0")
    for rule, changes in (
        ("012", {"data/0": record[:-4]}), ("012", {"data/0": record + bytes(4)}), ("012", {"data/0": None}),
        ("015", {"data/99": bytes(64)}), ("018", {"version": b"3", ".data/version": b"3"}),
        ("010", {"constants.pkl": b"\x80\x02)\x94."}), ("004", {"DATA.pkl": b"x"}), ("004", {"Data/0": record}),
    ):  # fmt: skip
        yield f"{rule} {changes.keys()} {len(changes)}", Case(f"WIPER-TS-{rule}", rezip(plain(), changes))
    bomb = rezip(plain(), {"code/x.py": bytes(1 << 20)}, deflate=("code/x.py",))
    yield "bomb", Case("WIPER-TS-008", bomb)
    yield "compressed", Case(UNSUPPORTED, rezip(plain(), {}, deflate=("data/0",)))


def torchscript_zip():
    """One byte of the archive's own structure, where loaders disagree."""
    whole, entries = plain(), read_archive(plain()).entries
    local, _, central = headers(whole, "data.pkl")
    for name, rule, bits in (
        ("flags", "003", {local + 6: 1}), ("method", "003", {local + 8: 8}), ("checksum", "003", {local + 14: 1}),
        ("name", "003", {local + 30: 32}), ("descriptor", "003", {entries["data.pkl"].descriptor + 4: 1}),
        ("end", "002", {len(whole) - 22 - 20 - 56 + 32: 1}), ("encrypted", "006", {local + 6: 1, central + 8: 1}),
        ("packed otherwise", "006", {local + 8: 12, central + 10: 12}),
        ("content", "007", {entries["data/0"].payload + 2: 4}),
        *((f"folder {one}", "017", {headers(whole, one)[2] + 38: 0x10}) for one in ("data/0", "data.pkl", "version")),
    ):  # fmt: skip
        changed = bytearray(whole)
        for at, bit in bits.items():
            changed[at] ^= bit
        yield name, Case(f"WIPER-TS-{rule}", bytes(changed))
    other, moved = headers(whole, "data/1")[0], bytearray(whole)
    struct.pack_into("<L", moved, headers(whole, "data/0")[2] + 42, other)
    yield "overlap", Case("WIPER-TS-003", bytes(moved))
    yield "before", Case("WIPER-TS-002", b"PK\3\4junk" + whole)
    yield "between", Case("WIPER-TS-001", test_central.junk_between(whole))
    yield "after", Case("WIPER-TS-002", whole + bytes(100))
    yield "comment", Case("WIPER-TS-002", whole[:-2] + b"\5\0hello")
    for size in (100, len(whole) - 30):
        yield f"cut after {size} bytes", Case(UNREADABLE, whole[:size])


def two_in_one():
    """Files of two kinds, and of none that is known."""
    for name, (rule, make) in test_polyglot.FILES.items():
        # What ends in a zip is a field of the graph's that onnx does not know, to its own reader.
        yield name, Case("WIPER-ONNX-001" if name == "ONNX with a zip" else f"WIPER-POLY-{rule}", make())
    for name, (data, error, _) in test_identify.REFUSED.items():
        yield name, Case(UNREADABLE if error.__name__ == "Unreadable" else UNSUPPORTED, data)


#: Name of a file that the test makes beside the model, which tells what it is → rule.
WAYS = {"symbolic": "002", "hard": "003", "folder": "003", "pipe": "003"}


def beside():
    """External data that lies elsewhere, or is what :data:`WAYS` says."""
    for location in (
        *test_identify.ELSEWHERE,
        "../../../etc/passwd",
        "a\nb",
        "w" * 300,
        "*/_ORT_MEM_ADDR_/*",
    ):
        if location:
            model, _ = tiny.externalised(tiny.classifier(), location)
            yield f"at {location[:40]!r}", Case("WIPER-FILE-001", model.SerializeToString())
    model, files = tiny.externalised(tiny.classifier())
    data = model.SerializeToString()
    yield "missing", Case(UNREADABLE, data)
    yield "short", Case("WIPER-ONNX-009", data, {"weights.data": files["weights.data"][:-1]})
    for way, rule in WAYS.items():
        model, _ = tiny.externalised(tiny.classifier(), way)
        yield way, Case(f"WIPER-FILE-{rule}", model.SerializeToString())


TABLES = (
    safetensors, onnx_messages, onnx_tensors, onnx_graphs, torchscript_code, torchscript_pickles, torchscript_members,
    torchscript_zip, two_in_one, beside,
)  # fmt: skip


@cache
def cases() -> Mapping[str, Case]:
    """All of them; made once, since every one is bytes."""
    return {f"{table.__name__}: {name}": case for table in TABLES for name, case in table()}
