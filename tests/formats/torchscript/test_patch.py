import io
import zipfile

import torch
from torchscript_files import archive, as_bytes, network, rezip

from formats import Edit, NewTensor, Source, write_edit
from formats.torchscript.manifest import read_manifest


def as_new(address, value):
    return NewTensor(
        address.dtype, address.shape, bytes(value.contiguous().view(torch.uint8).flatten().tolist())
    )


def changed_members(old, new):
    with zipfile.ZipFile(io.BytesIO(old)) as a, zipfile.ZipFile(io.BytesIO(new)) as b:
        assert a.namelist() == b.namelist()
        assert b.testzip() is None
        return {name.partition("/")[2] for name in a.namelist() if a.read(name) != b.read(name)}


def test_strides_offsets_and_precisions():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            whole = torch.arange(40.0)
            self.register_buffer("turned", whole[4:24].view(4, 5).t())
            last = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
            self.register_buffer("last", last)
            self.register_buffer("narrow", torch.randn(3).half())
            self.register_buffer("whole", torch.arange(3))
            self.register_buffer("scalar", torch.tensor(2.0))

        def forward(self, x):
            return (
                x + self.turned.sum() + self.last.sum() + self.narrow.sum() + self.whole.sum() + self.scalar
            )

    source = Source("odd.pt", as_bytes(torch.jit.script(Odd())))
    manifest = read_manifest(source)
    old = torch.jit.load(io.BytesIO(source.data)).state_dict()
    new = {name: (value + 1) for name, value in old.items()}
    edit = Edit({name: as_new(manifest.tensors[name], value.reshape(-1)) for name, value in new.items()})
    data = write_edit(source, manifest, edit)[""]
    loaded = torch.jit.load(io.BytesIO(data)).state_dict()
    for name, value in new.items():
        assert torch.equal(loaded[name], value), name
    assert changed_members(source.data, data) == {a.member for a in manifest.tensors.values()}


def test_other_packers_headers_are_kept_right(plain):
    """Python writes the checksum into the local header as well."""
    source = Source("model.pt", rezip(plain, {}))
    manifest = read_manifest(source)
    edit = Edit({"fc.bias": as_new(manifest.tensors["fc.bias"], torch.arange(5.0))})
    data = write_edit(source, manifest, edit)[""]
    assert changed_members(source.data, data) == {manifest.tensors["fc.bias"].member}
    assert torch.jit.load(io.BytesIO(data)).fc.bias.tolist() == [0, 1, 2, 3, 4]


def test_tied_names_move_together():
    source = Source("model.pt", archive(network("tied"), "scripted"))
    manifest = read_manifest(source)
    value = torch.full((12, 12), 3.0)
    data = write_edit(source, manifest, Edit({"a.weight": as_new(manifest.tensors["a.weight"], value)}))[""]
    state = torch.jit.load(io.BytesIO(data)).state_dict()
    assert torch.equal(state["a.weight"], value)
    assert torch.equal(state["b.weight"], value)
