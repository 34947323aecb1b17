"""Every kind of model file passes the same tests: read, opened, edited, written, served, damaged."""

import copy
import inspect
import io
import random
import zipfile
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import safetensors
import torch
from google.protobuf.message import DecodeError
from safetensors.torch import save
from torch import nn

from formats import (
    Edit,
    EditError,
    FormatError,
    NewTensor,
    Source,
    Unreadable,
    apply_edit,
    edit_of,
    head_edit,
    identify,
    open_model,
    serve,
    stored_bytes,
    write_edit,
)  # fmt: skip
from formats import inspect as manifest_of
from formats.dtypes import DTYPES
from formats.kinds import (
    KINDS,
    Opener,
    Reader,
    Recogniser,
    Server,
    Writer,
    opener,
    reader,
    recogniser,
    server,
    writer,
)
from formats.tensors import to_bytes
from wiper_cli.zoo.export import export_frozen, export_onnx, export_traced


class Net(nn.Module):
    """Convolution, batch norm, linear: 5 classes."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def network():
    """What ``--arch`` names for files that hold tensors alone; nothing in it is equal by accident."""
    made, generator = Net().eval(), torch.Generator().manual_seed(0)
    for name, value in made.state_dict().items():
        if value.is_floating_point():
            value.normal_(0, 0.3, generator=generator).add_(1.5 if name.endswith("var") else 0)
    return made


def as_safetensors(dtype):
    return lambda path: path.write_bytes(
        save({k: v.to(dtype) if v.is_floating_point() else v for k, v in network().state_dict().items()})
    )


def scripted(path):
    torch.jit.save(torch.jit.script(network()), str(path))


def external(path):
    export_onnx(network(), EXAMPLE, path)
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="w.data", size_threshold=64)


EXAMPLE = torch.zeros(2, 3, 16, 16)
#: Kind, and what writes the file.
CASES = {
    "safetensors": ("safetensors", as_safetensors(torch.float32)),
    "safetensors half": ("safetensors", as_safetensors(torch.float16)),
    "traced": ("torchscript", lambda path: export_traced(network(), EXAMPLE, path)),
    "frozen": ("torchscript", lambda path: export_frozen(network(), EXAMPLE, path)),
    "scripted": ("torchscript", scripted),
    "onnx": ("onnx", lambda path: export_onnx(network(), EXAMPLE, path)),
    "onnx live": ("onnx", lambda path: export_onnx(network(), EXAMPLE, path, fold=False)),
    "onnx external": ("onnx", external),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """(kind, source, arch)"""
    kind, write = CASES[request.param]
    path = tmp_path_factory.mktemp("case") / "model"
    write(path)
    files = {one.name: one.read_bytes() for one in path.parent.iterdir() if one != path}
    arch = f"{__file__}:network" if kind == "safetensors" else None
    return kind, Source("model", path.read_bytes(), files), arch


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def by_the_library(kind, source):
    """Name → (shape, bytes) of every tensor, as the reference parser of the kind reads the file."""
    if kind == "safetensors":
        return {
            name: (tuple(one["shape"]), bytes(one["data"]))
            for name, one in safetensors.deserialize(source.data)
        }
    if kind == "torchscript":
        with zipfile.ZipFile(io.BytesIO(source.data)) as archive:
            assert archive.testzip() is None
        module = torch.jit.load(io.BytesIO(source.data))
        found = module.state_dict() or {f"constants.c{i}": v for i, v in constants(module)}
        return {name: (tuple(value.shape), to_bytes(value)) for name, value in found.items()}
    model = onnx.ModelProto.FromString(source.data)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            start = int(place.get("offset", 0))
            tensor.raw_data = source.files[place["location"]][start : start + int(place["length"])]
            tensor.data_location = onnx.TensorProto.DEFAULT
    return {
        tensor.name: (tuple(tensor.dims), tensor.raw_data or np.array(tensor.float_data, "<f4").tobytes())
        for tensor in model.graph.initializer
        if tensor.data_type in {one.onnx for one in DTYPES.values()}
    }


def constants(module):
    """Tensors of a frozen graph, numbered as the archive numbers them."""
    values = module.code_with_constants[1].const_mapping
    return [(int(name.removeprefix("c")), value) for name, value in values.items()]


def agrees(kind, source, manifest):
    """What our reader found is what the reference parser finds, which names no constants of a graph."""
    theirs = by_the_library(kind, source)
    assert theirs.keys() <= manifest.tensors.keys()
    for name, (shape, data) in theirs.items():
        address = manifest.tensors[name]
        assert (address.shape, stored_bytes(source, address)) == (shape, data), name


def after(source, written):
    files = {name: written.get(name, old) for name, old in source.files.items()}
    return replace(source, data=written[""], files=files)


def test_every_kind_has_a_case_and_the_same_doors():
    assert {kind for kind, _ in CASES.values()} == set(KINDS)
    doors = ((recogniser, Recogniser), (reader, Reader), (writer, Writer), (opener, Opener), (server, Server))
    for door, contract in doors:
        for kind in KINDS:
            for name, wanted in inspect.getmembers(contract, inspect.isfunction):
                if not name.startswith("_"):
                    own = list(inspect.signature(getattr(door(kind), name)).parameters.values())
                    wanted = list(inspect.signature(wanted).parameters.values())[1:]
                    assert [(p.name, p.default) for p in own] == [(p.name, p.default) for p in wanted]
    prefixes = {rule.rpartition("-")[0] for kind in KINDS for rule in reader(kind).RULES}
    assert prefixes == {"WIPER-ST", "WIPER-TS", "WIPER-ONNX"}


def test_recognised_by_its_own_reader_alone_and_read_as_the_library_reads_it(case):
    kind, source, _ = case
    agrees(kind, source, manifest_of(source))
    assert [one for one in KINDS if recogniser(one).recognises(source.data)] == [kind]
    assert identify(source.data, "model") == manifest_of(source).kind == kind
    assert list(reader(kind).external_locations(source.data)) == list(source.files)


def test_opened_as_it_is_served(case, images):
    _, source, arch = case
    model = open_model(source, arch)
    with torch.no_grad():
        torch.testing.assert_close(model.network(images), serve(source, arch)(images), atol=2e-3, rtol=0)
    assert (model.classes, model.head.units, model.head.linear) == (5, 4, True)


def test_only_the_edited_ranges_change_and_serving_agrees(case, images):
    kind, source, arch = case
    model = open_model(source, arch)
    trained, generator = copy.deepcopy(model.network), torch.Generator().manual_seed(2)
    chosen = list(model.tensors)[::2]
    with torch.no_grad():
        for name in chosen:
            value = model.named(trained)[name]
            value += 0.1 * torch.randn(value.shape, generator=generator)
    edit = edit_of(model, trained)
    assert set(edit.tensors) == set(chosen)
    written = write_edit(source, model.manifest, edit)
    result = after(source, written)
    assert result.size == source.size
    assert manifest_of(result) == model.manifest
    old, new = writer(kind).members(source), writer(kind).members(result)
    for member, payload in old.items():
        free = bytearray(b"\1" * len(payload))
        for name in chosen:
            address = model.manifest.tensors[name]
            if address.member == member:
                free[address.offset : address.offset + address.length] = bytes(address.length)
        assert all(a == b for a, b, outside in zip(payload, new[member], free, strict=True) if outside)
    agrees(kind, result, model.manifest)
    for name, address in model.manifest.tensors.items():
        expected = edit.tensors[name].data if name in edit.tensors else stored_bytes(source, address)
        assert stored_bytes(result, address) == expected
    with torch.no_grad():
        again = open_model(result, arch).network(images)
        assert torch.equal(again, apply_edit(model, edit).network(images))
        torch.testing.assert_close(again, trained(images), atol=2e-3, rtol=0)
        torch.testing.assert_close(again, serve(result, arch)(images), atol=2e-3, rtol=0)


def test_a_head_edit_is_served(case, images):
    _, source, arch = case
    model = open_model(source, arch)
    edit = head_edit(model, torch.zeros(5, 4), torch.arange(5.0))
    result = after(source, write_edit(source, model.manifest, edit))
    assert torch.equal(serve(result, arch)(images), torch.arange(5.0).expand(3, 5))


def test_edits_that_do_not_fit_are_refused(case):
    _, source, _ = case
    manifest = manifest_of(source)
    assert write_edit(source, manifest, Edit({})) == {"": source.data}
    name, address = next((n, a) for n, a in manifest.tensors.items() if len(a.shape) == 2)
    whole = bytes(address.size)
    other = next(dtype for dtype in DTYPES if dtype != address.dtype)
    for words, edit in {
        "has no tensor": {"nobody": NewTensor("F32", (1,), bytes(4))},
        f"the new values are {other}": {name: NewTensor(other, address.shape, whole)},
        f"{address.dtype} .* the new values are": {
            name: NewTensor(address.dtype, address.shape[::-1], whole)
        },
        "no whole tensor": {name: NewTensor(address.dtype, address.shape, whole[1:])},
    }.items():
        with pytest.raises(EditError, match=words):
            write_edit(source, manifest, Edit(edit))


def test_a_patch_that_does_something_else_is_refused(case, monkeypatch):
    kind, source, arch = case
    model = open_model(source, arch)
    edit = head_edit(model, torch.zeros(5, 4), None)
    right = writer(kind).patch
    extra = head_edit(model, torch.zeros(5, 4), torch.arange(5.0))
    for words, wrong in {
        "more or less": lambda *_: {"": source.data},
        "more or less of": lambda source, manifest, _: right(source, manifest, extra),
        "other files": lambda *_: {"other": b""},
    }.items():
        monkeypatch.setattr(f"formats.{kind}.patch.patch", wrong)
        with pytest.raises(EditError, match=words):
            write_edit(source, model.manifest, edit)


def test_every_truncation_is_refused(case):
    _, source, _ = case
    refusals = Counter()
    for size in {*range(min(300, source.size)), *range(0, len(source.data), 97), len(source.data) - 1}:
        with pytest.raises(FormatError) as refusal:
            manifest_of(replace(source, data=source.data[:size]))
        refusals[type(refusal.value)] += 1
    assert refusals[Unreadable] > 0.9 * refusals.total()


def test_damage_is_refused_or_read_as_the_library_reads_it(case):
    kind, source, _ = case
    dice, outcomes = random.Random(0), Counter()
    for _ in range(800):
        data = bytearray(source.data)
        for _ in range(dice.randint(1, 3)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        damaged = replace(source, data=bytes(data))
        try:
            manifest = manifest_of(damaged)
            agrees(kind, damaged, manifest)
        except FormatError:
            outcomes["refused"] += 1
        except DecodeError:  # in a message that holds no tensor: opening says so
            with pytest.raises(Unreadable, match="cannot be parsed"):
                opener(kind).open_file(damaged, manifest)
        else:
            outcomes["read"] += 1
    assert min(outcomes["refused"], outcomes["read"]) >= 10, outcomes
