import io
import pickle
import random
import struct
from collections import Counter

import pytest

from formats import FormatError, Hostile, Unsupported
from formats.dtypes import DTYPES
from formats.torchscript.pickles import Instance, Stored, named_tensors, read_pickle


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def tensor(
    key="0", count=6, offset=0, size=b"K\x02K\x03", stride=b"K\x03K\x01", kind="FloatStorage", device="cpu"
):
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text(device)
    storage += b"J" + struct.pack("<i", count) + b"tQ"
    rest = b"K" + bytes([offset]) + b"(" + size + b"t(" + stride + b"t\x88ccollections\nOrderedDict\n)RtR"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest


def module(body, name="__torch__.Net"):
    path, _, cls = name.rpartition(".")
    return f"c{path}\n{cls}\n".encode() + b")\x81}(" + body + b"ub"


def read(body):
    return read_pickle(b"\x80\x02" + body + b".", "data.pkl", {"__torch__.Net"}.__contains__)


def test_module_tree():
    inner = module(text("weight") + tensor(offset=0) + text("training") + b"\x89")
    listed = text("list") + b"](" + tensor(key="7") + b"e"
    root = read(module(text("a") + inner + listed + text("n") + b"\x8a\x01\xff"))
    assert isinstance(root, Instance)
    assert root.state["n"] == -1
    assert dict(named_tensors(root)) == {
        "a.weight": Stored("0", "F32", 6, 0, (2, 3), (3, 1), True),
        "list.0": Stored("7", "F32", 6, 0, (2, 3), (3, 1), True),
    }


def test_enumerations_are_their_values():
    assert read(b"c__torch__\nNet\n" + text("NCHW") + b"R") == "NCHW"


#: Rule → bodies.
REFUSED = {
    "foreign name": ("011", [
        b"cos\nsystem\n" + text("true") + b"\x85R", b"c__builtin__\neval\n", b"ctorch\nload\n",
        b"ctorch._utils\n_rebuild_parameter\n", module(b"", "__torch__.Unknown"),
        b"c__torch__.torch.classes.rnn\nCellParamsBase\n",
    ]),
    "unknown instruction": ("010", [
        b"N" + one for one in (b"\x93", b"i", b"o", b"P0\n", b"\x94", b"\x95", b"\x82\x01", b"0", b"2", b"S''\n")
    ]),
    "malformed": ("010", [
        b"", b"NN", b"N.N", b"t", b"e", b"h\x05", b"X\xff\xff\xff\xffabc", b"K", b"\x8a\x09" + b"\1" * 9, b"N}b",
        b"}(" + text("a") + b"N" + text("a") + b"Nu", b"}(" + b"(Nt" + b"Nu", b"ccollections\nOrderedDict\nN\x85R",
    ]),
    "no tensor": ("010", [
        tensor(count=-1), tensor(key="../0"), tensor(device="/dev/sda"), tensor(size=b"J\xff\xff\xff\xffK\x03"),
        tensor(size=b"K\x02"), tensor(size=b"G\0\0\0\0\0\0\0\0K\x03"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "bodies"), REFUSED.values(), ids=REFUSED)
def test_refusals(rule, bodies):
    for body in bodies:
        with pytest.raises(Hostile) as caught:
            read(body)
        assert caught.value.rule == f"WIPER-TS-{rule}", body


def test_quantised_is_unsupported():
    with pytest.raises(Unsupported, match="quantised"):
        read(b"ctorch._utils\n_rebuild_qtensor\n")


def test_objects_that_contain_themselves_or_double():
    doubled = b"](" + tensor() + b"e"
    for i in range(60):
        doubled += b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86"
    for body in (b"c__torch__\nNet\n)\x81q\0}(" + text("me") + b"h\0ub", doubled):
        with pytest.raises(Hostile) as caught:
            list(named_tensors(read(body)))
        assert caught.value.rule == "WIPER-TS-010"


class Library(pickle.Unpickler):
    """Python's reading of the same pickle, with stand-ins for what it names."""

    class Net:
        def __setstate__(self, state):
            self.state = state

    def find_class(self, module, name):
        if name == "_rebuild_tensor_v2":
            return lambda storage, offset, size, stride, grad, hooks: Stored(
                storage[2], DTYPES_BY_STORAGE[storage[1]], storage[4], offset, size, stride, grad
            )
        return {"Net": self.Net, "OrderedDict": dict}.get(name, name)

    def persistent_load(self, value):
        return value

    @classmethod
    def tensors(cls, value, path=""):
        if isinstance(value, Stored):
            yield path, value
        state = value.state if isinstance(value, cls.Net) else value if isinstance(value, dict) else {}
        for name, item in state.items():
            yield from cls.tensors(item, f"{path}.{name}" if path else str(name))


DTYPES_BY_STORAGE = {one.storage: name for name, one in DTYPES.items()}


def test_damage_is_refused_or_read_as_python_reads_it():
    body = module(text("a") + module(text("w") + tensor()) + text("b") + tensor(key="1"))
    whole = b"\x80\x02" + body + b"."
    dice, outcomes = random.Random(0), Counter()
    for _ in range(2000):
        changed = bytearray(whole)
        for _ in range(dice.randrange(1, 3)):
            changed[dice.randrange(2, len(changed))] = dice.randrange(256)
        try:
            found = read_pickle(bytes(changed), "data.pkl", {"__torch__.Net"}.__contains__)
            ours = list(named_tensors(found))
        except FormatError as refusal:
            outcomes[type(refusal)] += 1
            continue
        outcomes["read"] += 1
        assert ours == list(Library.tensors(Library(io.BytesIO(changed)).load()))
    assert min(outcomes[Hostile], outcomes["read"]) > 50, outcomes
