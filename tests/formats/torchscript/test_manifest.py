import io
import zipfile

import pytest
import torch
from torchscript_files import archive, as_bytes, member, module, network, rezip, tensor, text

from formats import Hostile, Source, Unsupported
from formats.torchscript.manifest import RULES, read_manifest


def manifest(data):
    return read_manifest(Source("model.pt", data))


def refuses(data, rule):
    assert rule in RULES
    with pytest.raises(Hostile) as caught:
        manifest(data)
    assert caught.value.rule == rule


def test_where_tensors_lie_and_what_the_archive_tells():
    found = manifest(archive(network("cnn"), "traced"))
    assert all(a.member.startswith("data/") for name, a in found.tensors.items() if "constants" not in name)
    assert found.metadata == {"root_class": found.metadata["root_class"], "example_shape": "2,3,16,16"}
    assert found.metadata["root_class"].endswith(".Cnn")
    frozen = manifest(archive(network("cnn"), "frozen_scripted")).tensors
    assert "constants.c0" in frozen
    assert all(a.member.startswith("constants/") for a in frozen.values())


def test_ties_are_aliases():
    found = manifest(archive(network("tied"), "scripted"))
    assert found.tensors["a.weight"].aliases == ("b.weight",)
    assert found.tensors["b.weight"].aliases == ("a.weight",)
    assert found.tensors["a.weight"].writable
    assert "a.weight and b.weight" in found.notes[0]


def test_views_lie_in_their_whole():
    class Views(torch.nn.Module):
        def __init__(self):
            super().__init__()
            whole = torch.randn(4, 6)
            self.whole = torch.nn.Parameter(whole)
            self.register_buffer("part", whole[1:3])
            self.register_buffer("turned", torch.randn(3, 2).t())
            self.register_buffer("repeated", torch.randn(1, 2).expand(3, 2))

        def forward(self, x):
            return x.mean((2, 3)) @ self.whole[:3] + self.part.sum() + self.turned.sum() + self.repeated.sum()

    found = manifest(as_bytes(torch.jit.script(Views().eval()))).tensors
    assert found["whole"].writable
    assert not found["part"].writable
    assert (found["part"].offset, found["part"].length, found["part"].stride) == (24, 48, None)
    assert found["turned"].stride == (1, 2)
    assert found["turned"].writable
    assert not found["repeated"].writable


@pytest.mark.parametrize("name", ["evil.so", "data/x", "code/run.sh", "data.pkl.bak", "traced_inputs/../x"])
def test_unknown_members(plain, name):
    with pytest.raises(Hostile) as caught:
        manifest(rezip(plain, {name: b"\x7fELF"}))
    assert caught.value.rule in ("WIPER-TS-005", "WIPER-TS-009")


def code_member(data):
    """The member that defines the network, and its text."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        names = [n.partition("/")[2] for n in old.namelist() if n.endswith(".py")]
    return next((name, member(data, name)) for name in names if b"class Cnn(" in member(data, name))


#: Rule, and what is put for what in the code: it ran, was compiled, or hid what runs.
CODE = {
    "state": (
        "014",
        b"  def forward(",
        b"  def __setstate__(self, state: Tensor) -> NoneType:\n    pass\n  def forward(",
    ),
    "default argument": (
        "019",
        b"x: Tensor)",
        b'x: Tensor, y: Tensor=torch.from_file("a", True, 9)) -> Tensor:',
    ),
    "value of a class": (
        "019",
        b"  training : bool\n",
        b"  training : bool\n  k : Final[Tensor] = torch.rand([1])\n",
    ),
    "file": ("020", b"torch.relu(", b"torch.save("),
    "memory": ("020", b"torch.relu(", b"ops.inductor._reinterpret_tensor("),
    "alias": ("020", b"    conv = self.conv\n", b"    conv = self.conv\n    f = torch.save\n"),
    "twice": ("021", b"  training : bool\n", b"  training : bool\n  training : int\n"),
    "memory of any size": ("022", b"torch.relu(", b"torch.expand(torch.ones([1]), [10000000000]"),
}


@pytest.mark.parametrize(("rule", "old", "new"), CODE.values(), ids=CODE)
def test_code_that_is_no_network(plain, rule, old, new):
    name, text = code_member(plain)
    assert old in text
    refuses(rezip(plain, {name: text.replace(old, new, 1)}), f"WIPER-TS-{rule}")


#: What is put for what in the code, and the words of the sentence.
UNKNOWN_CODE = [
    (b"torch.relu(", b"torch.manual_seed(", "torch.manual_seed .*not among the operators"),
    (
        b"    conv = self.conv\n",
        b"    conv = self.conv\n    while True:\n      pass\n",
        "not bounded|does not write",
    ),
    (b"    conv = self.conv\n", b"    conv = self.conv # comment\n", "does not write"),
]


@pytest.mark.parametrize(("old", "new", "words"), UNKNOWN_CODE)
def test_code_that_is_not_known(plain, old, new, words):
    name, text = code_member(plain)
    with pytest.raises(Unsupported, match=words):
        manifest(rezip(plain, {name: text.replace(old, new, 1)}))


def test_two_tensors_of_one_path(plain):
    """ "fc.bias" of the network itself and the bias of fc: torch reads both, the second past the end of its record."""
    code = b'class Fc(Module):\n  bias : Tensor\nclass E(Module):\n  __annotations__["%s"] = Tensor\n'
    code += b"  fc : __torch__.e.Fc\n"
    inner = module(text("bias") + tensor(), "__torch__.e.Fc")
    files = {f"data/{i}": bytes(24) if i == 0 else None for i in range(20)}
    for name in ("other", "fc.bias"):
        body = text(name) + tensor(count=6 if name == "other" else 1 << 20) + text("fc") + inner
        made = b"\x80\x02" + module(body, "__torch__.e.E") + b"."
        data = rezip(plain, files | {"data.pkl": made, "code/__torch__/e.py": code % name.encode()})
        if name == "other":
            assert manifest(data).tensors.keys() >= {"other", "fc.bias"}
        else:
            refuses(data, "WIPER-TS-018")


#: Rule, and what is put for what in the pickle.
PICKLES = {
    "count larger than the record": ("012", b"Kl", b"Km"),
    "wider type than stored": ("012", b"FloatStorage", b"DoubleStorage"),
    "tensor outside its record": ("013", b"(K\x04K\x03K\x03K\x03t", b"(K\x05K\x03K\x03K\x03t"),
    "foreign function": ("011", b"ccollections\nOrderedDict\n", b"cos\nsystem\n"),
    "class that the code lacks": ("011", b"\nCnn\n", b"\nCat\n"),
}


@pytest.mark.parametrize(("rule", "old", "new"), PICKLES.values(), ids=PICKLES)
def test_pickles_that_lie(plain, rule, old, new):
    pickle = member(plain, "data.pkl")
    assert old in pickle
    refuses(rezip(plain, {"data.pkl": pickle.replace(old, new, 1)}), f"WIPER-TS-{rule}")


def test_records_that_do_not_fit(plain):
    for content in (member(plain, "data/0")[:-4], member(plain, "data/0") + b"\0\0\0\0", None):
        refuses(rezip(plain, {"data/0": content}), "WIPER-TS-012")
    refuses(rezip(plain, {"data/99": b"\0" * 64}), "WIPER-TS-015")
    refuses(rezip(plain, {"version": b"3", ".data/version": b"3"}), "WIPER-TS-018")
    refuses(rezip(plain, {"constants.pkl": b"\x80\x02)\x94."}), "WIPER-TS-010")


#: Changes of members, and the words of the sentence.
UNKNOWN_MEMBERS = [
    ({"bytecode.pkl": b"x"}, "mobile"),
    ({"byteorder": b"big"}, "big-endian"),
    ({"version": b"11\n", ".data/version": None}, "format version"),
    ({"version": b"3" * 5000, ".data/version": None}, "format version"),
    ({"version": b" 3", ".data/version": None}, "format version"),
    ({"constants.pkl": None}, "no TorchScript"),
]


@pytest.mark.parametrize(("changes", "words"), UNKNOWN_MEMBERS)
def test_unsupported(plain, changes, words):
    with pytest.raises(Unsupported, match=words):
        manifest(rezip(plain, changes))
    with pytest.raises(Unsupported, match="compressed"):
        manifest(rezip(plain, {}, deflate=("data/0",)))


@pytest.mark.filterwarnings("ignore:.*quantiz.*")
def test_quantised():
    quantised = torch.ao.quantization.quantize_dynamic(network("cnn"), {torch.nn.Linear})
    with pytest.raises(Unsupported, match="quantised"):
        manifest(as_bytes(torch.jit.script(quantised)))
