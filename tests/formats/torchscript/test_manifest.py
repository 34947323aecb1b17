import io

import pytest
import torch

from formats import Hostile, Source, Unreadable, Unsupported
from formats.torchscript.manifest import RULES, read_manifest


def manifest(data):
    return read_manifest(Source("model.pt", data))


def refuses(data, rule):
    assert rule in RULES
    with pytest.raises(Hostile) as caught:
        manifest(data)
    assert caught.value.rule == rule


def test_names_and_addresses_agree_with_torch(network, archive):
    data = archive(network("cnn"), "traced")
    found = manifest(data)
    state = torch.jit.load(io.BytesIO(data)).state_dict()
    assert found.tensors.keys() >= state.keys()
    for name, value in state.items():
        assert found.tensors[name].shape == tuple(value.shape)
        assert found.tensors[name].member.startswith("data/")
    assert found.metadata == {"root_class": found.metadata["root_class"], "example_shape": "2,3,16,16"}
    assert found.metadata["root_class"].endswith(".Cnn")


def test_frozen_constants_are_named_by_number(network, archive):
    found = manifest(archive(network("cnn"), "frozen_scripted"))
    assert "constants.c0" in found.tensors
    assert all(a.member.startswith("constants/") for a in found.tensors.values())


def test_ties_are_aliases(network, archive):
    found = manifest(archive(network("tied"), "scripted"))
    assert found.tensors["a.weight"].aliases == ("b.weight",)
    assert found.tensors["b.weight"].aliases == ("a.weight",)
    assert found.tensors["a.weight"].writable
    assert "a.weight and b.weight" in found.notes[0]


def test_views_lie_in_their_whole(as_bytes):
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


def test_truncated(plain):
    with pytest.raises(Unreadable):
        manifest(plain[: len(plain) // 2])


@pytest.mark.parametrize("name", ["evil.so", "data/x", "code/run.sh", "data.pkl.bak", "traced_inputs/../x"])
def test_unknown_members(plain, rezip, name):
    with pytest.raises(Hostile) as caught:
        manifest(rezip(plain, {name: b"\x7fELF"}))
    assert caught.value.rule in ("WIPER-TS-005", "WIPER-TS-009")


@pytest.mark.parametrize("name", [b"__setstate__", b"__getstate__"])
def test_code_that_runs_on_loading(plain, rezip, name):
    code = b"class A(Module):\n  def " + name + b"(self, state: Tensor) -> NoneType:\n    pass\n"
    refuses(rezip(plain, {"code/__torch__/a.py": code}, deflate=("code/__torch__/a.py",)), "WIPER-TS-014")


def test_count_larger_than_record(plain, rezip, member):
    pickle = member(plain, "data.pkl")
    assert b"\x03\0\0\0cpuq\x0bKl" in pickle or b"Kl" in pickle
    refuses(rezip(plain, {"data.pkl": pickle.replace(b"Kl", b"Km", 1)}), "WIPER-TS-012")


def test_record_of_another_length(plain, rezip, member):
    for content in (member(plain, "data/0")[:-4], member(plain, "data/0") + b"\0\0\0\0", None):
        refuses(rezip(plain, {"data/0": content}), "WIPER-TS-012")


def test_wider_type_than_stored(plain, rezip, member):
    pickle = member(plain, "data.pkl")
    refuses(rezip(plain, {"data.pkl": pickle.replace(b"FloatStorage", b"DoubleStorage", 1)}), "WIPER-TS-012")


def test_tensor_outside_its_record(plain, rezip, member):
    pickle = member(plain, "data.pkl")
    size = b"(K\x04K\x03K\x03K\x03t"
    assert pickle.count(size) == 1
    refuses(rezip(plain, {"data.pkl": pickle.replace(size, b"(K\x05K\x03K\x03K\x03t")}), "WIPER-TS-013")


def test_record_of_no_tensor(plain, rezip):
    refuses(rezip(plain, {"data/99": b"\0" * 64}), "WIPER-TS-015")


def test_foreign_function(plain, rezip, member):
    pickle = member(plain, "data.pkl")
    evil = pickle.replace(b"ccollections\nOrderedDict\n", b"cos\nsystem\n", 1)
    refuses(rezip(plain, {"data.pkl": evil}), "WIPER-TS-011")


def test_class_that_the_code_lacks(plain, rezip, member):
    pickle = member(plain, "data.pkl")
    refuses(rezip(plain, {"data.pkl": pickle.replace(b"\nCnn\n", b"\nCat\n", 1)}), "WIPER-TS-011")


def test_unknown_instruction(plain, rezip, member):
    refuses(rezip(plain, {"constants.pkl": b"\x80\x02)\x94."}), "WIPER-TS-010")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bytecode.pkl": b"x"}, "mobile"),
        ({"byteorder": b"big"}, "big-endian"),
        ({"version": b"11\n", ".data/version": None}, "format version"),
        ({"constants.pkl": None}, "no TorchScript"),
    ],
)
def test_unsupported(plain, rezip, changes, words):
    with pytest.raises(Unsupported, match=words):
        manifest(rezip(plain, changes))


def test_compressed_tensors(plain, rezip):
    with pytest.raises(Unsupported, match="compressed"):
        manifest(rezip(plain, {}, deflate=("data/0",)))


@pytest.mark.filterwarnings("ignore:.*quantiz.*")
def test_quantised(network, as_bytes):
    quantised = torch.ao.quantization.quantize_dynamic(network("cnn"), {torch.nn.Linear})
    with pytest.raises(Unsupported, match="quantised"):
        manifest(as_bytes(torch.jit.script(quantised)))
