import io
import pickle
import random
from collections import Counter

import pytest
from torchscript_files import module, tensor, text

from formats import FormatError, Hostile, Unsupported
from formats.dtypes import DTYPES
from formats.torchscript import pickles
from formats.torchscript.code import read_type
from formats.torchscript.pickles import Instance, Stored, named_tensors, read_pickle
from formats.torchscript.words import Class


def declared(base="Module", **attributes):
    return Class(base, {name: read_type(kind) for name, kind in attributes.items()})


CLASSES = {
    "__torch__.Net": declared(a="__torch__.Inner", b="Tensor"),
    "__torch__.Inner": declared(w="Tensor"),
    "__torch__.Lists": declared(
        list="List[Tensor]", n="int", o="Optional[float]", d="Dict[str, Tuple[int, bool]]"
    ),
    "__torch__.Me": declared(me="__torch__.Me"),
    "__torch__.Way": Class("Enum"),
    "__torch__.Pair": declared("NamedTuple", left="int", right="str"),
    "__torch__.Has": declared(pair="__torch__.Pair", way="__torch__.Way"),
}


def read(body):
    return read_pickle(b"\x80\x02" + body + b".", "data.pkl", CLASSES)


WEIGHT = text("w") + tensor()
NET = module(text("a") + module(WEIGHT) + text("b") + tensor(key="1"), "__torch__.Net")


SEVEN, PAIR = tensor(key="7"), text("x") + b"K\x01\x88\x86"


def lists(items=SEVEN, n=b"\x8a\x01\xff", o=b"N", d=PAIR):
    body = text("list") + b"](" + items + b"e" + text("n") + n + text("o") + o + text("d") + b"}(" + d + b"u"
    return module(body, "__torch__.Lists")


def test_module_tree():
    root = read(lists())
    assert isinstance(root, Instance)
    assert (root.state["n"], root.state["d"]) == (-1, {"x": (1, True)})
    shape = ("F32", 6, 0, (2, 3), (3, 1), True)
    assert dict(named_tensors(root)) == {"list.0": Stored("7", *shape)}
    assert dict(named_tensors(read(NET))) == {"a.w": Stored("0", *shape), "b": Stored("1", *shape)}


def test_enumerations_and_named_tuples_are_their_values():
    assert read(b"c__torch__\nWay\n" + text("NCHW") + b"R") == "NCHW"
    pair = (
        text("pair") + b"K\x01" + text("r") + b"\x86" + text("way") + b"c__torch__\nWay\n" + text("up") + b"R"
    )
    assert read(module(pair, "__torch__.Has")).state == {"pair": (1, "r"), "way": "up"}


def typed(value, kind):
    return b"ctorch.jit._pickle\nrestore_type_tag\n(" + value + text(kind) + b"tR"


WRONGLY_TYPED = [
    typed(b"](K\x01N\x65", "List[int]"), typed(b"](K\x01e", "List[str]"), typed(b"](K\x01e", "Tensor"),
    typed(b"](K\x01e", "List[__torch__.torch.classes.rnn.Cell]"), typed(b"](K\x01e", "List["), typed(b"]", "os"),
    b"ctorch.jit._pickle\nbuild_intlist\n](" + text("a") + b"e\x85R", lists(n=text("1")), lists(items=b"N"),
    lists(o=b"K\x01"), lists(d=b"K\x01K\x01\x88\x86"), lists(d=text("x") + b"K\x01\x85"),
    module(text("a") + module(WEIGHT) + text("b") + b"N", "__torch__.Net"),
    module(text("a") + lists() + text("b") + tensor(), "__torch__.Net"),
]  # fmt: skip


def test_types_are_what_they_are_said_to_be():
    assert read(typed(b"](K\x01K\x02e", "List[int]")) == [1, 2]
    assert read(typed(b"}(" + text("a") + b"](K\x01eu", "Dict[str, List[int]]")) == {"a": [1]}
    for wrong in WRONGLY_TYPED:
        refuses(wrong, "010")


def refuses(body, rule):
    with pytest.raises(Hostile) as caught:
        list(named_tensors(read(body)))
    assert caught.value.rule == f"WIPER-TS-{rule}", body


def test_an_object_has_the_attributes_of_its_class():
    for state in (b"", WEIGHT + text("x") + b"N", text("v") + tensor()):
        refuses(module(state), "010")


def test_what_torch_would_read_otherwise():
    """Its objects are the numbers of their classes before they are built, and marks are no values."""
    inner, body = b"c__torch__\nInner\n)\x81", b"}(" + WEIGHT + b"ub"
    read(inner + body)
    refuses(inner + b"q\0" + body, "010")
    refuses(b"(q\0" + inner + body + b"t", "010")
    refuses(inner, "010")
    refuses(b"c__torch__\nInner\n", "010")
    refuses(inner + b"\x85", "010")
    built = inner + b"}q\0(" + WEIGHT + b"ub"
    assert read(built + b"h\0(" + text("x") + tensor(key="9") + b"u\x86")[0].state.keys() == {"w"}


def test_memory_and_time_are_bounded(monkeypatch):
    refuses(b"Nq\x05", "010")  # torch makes room for six
    refuses(b"Nr\xff\xff\xff\xff", "010")
    many = b"K\x01q\0" + b"h\0" * 63
    sizes = {"size": many, "stride": b"K\0" + b"K\0" * 63}
    read(tensor(**sizes))
    refuses(tensor(size=many + b"h\0", stride=sizes["stride"] + b"K\0"), "010")
    large = b"\x8a\x06" + (1 << 47).to_bytes(6, "little")
    refuses(tensor(size=large + b"K\x04", stride=b"K\0K\0"), "010")
    eight = b"(" + b"".join(tensor(key="0") for _ in range(8))
    read(eight + b"t")
    refuses(eight + tensor(key="0") + b"t", "010")
    refuses(b"}(" + text("a" * 2000) + tensor() + b"u", "010")
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 50)
    read(b"(" + b"}" * 40 + b"t")
    refuses(b"(" + b"}" * 50 + b"t", "010")


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
    for body in (b"c__torch__\nMe\n)\x81q\0}(" + text("me") + b"h\0ub", doubled):
        with pytest.raises(Hostile) as caught:
            list(named_tensors(read(body)))
        assert caught.value.rule == "WIPER-TS-010"


class Library(pickle.Unpickler):
    """Python's reading of the same pickle, with stand-ins for what it names."""

    class Net:  # and Inner
        def __setstate__(self, state):
            self.state = state

    def find_class(self, module, name):
        if name == "_rebuild_tensor_v2":
            return lambda storage, offset, size, stride, grad, hooks: Stored(
                storage[2], DTYPES_BY_STORAGE[storage[1]], storage[4], offset, size, stride, grad
            )
        return {"Net": self.Net, "Inner": self.Net, "OrderedDict": dict}.get(name, name)

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
    whole = b"\x80\x02" + NET + b"."
    dice, outcomes = random.Random(0), Counter()
    for _ in range(2000):
        changed = bytearray(whole)
        for _ in range(dice.randrange(1, 3)):
            changed[dice.randrange(2, len(changed))] = dice.randrange(256)
        try:
            found = read_pickle(bytes(changed), "data.pkl", CLASSES)
            ours = list(named_tensors(found))
        except FormatError as refusal:
            outcomes[type(refusal)] += 1
            continue
        outcomes["read"] += 1
        assert ours == list(Library.tensors(Library(io.BytesIO(changed)).load()))
    assert min(outcomes[Hostile], outcomes["read"]) > 50, outcomes
