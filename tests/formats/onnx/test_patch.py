"""Edits change the bytes of their tensors and nothing else."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from formats.errors import EditError
from formats.model import Edit, NewTensor
from formats.onnx.patch import patch
from formats.onnx.wire import read_manifest


def test_only_the_range_of_the_tensor_changes(tiny):
    source = tiny.source_of(tiny.classifier())
    manifest = read_manifest(source)
    new = tiny.array(9, 4, 6)
    written = patch(source, manifest, Edit({"fc.weight": NewTensor("F32", (4, 6), new.tobytes())}))
    assert set(written) == {""}
    address = manifest.tensors["fc.weight"]
    start, end = address.offset, address.offset + address.length
    assert written[""][:start] == source.data[:start]
    assert written[""][end:] == source.data[end:]
    tensors = {one.name: one for one in onnx.load_from_string(written[""]).graph.initializer}
    assert np.array_equal(numpy_helper.to_array(tensors["fc.weight"]), new)


def test_external_files(tiny):
    model, files = tiny.externalised(tiny.classifier(), least=20)
    source = tiny.source_of(model, files)
    manifest = read_manifest(source)
    new = NewTensor("F32", (4, 6), tiny.array(9, 4, 6).tobytes())
    written = patch(source, manifest, Edit({"fc.weight": new}))
    assert set(written) == {"weights.data"}
    changed = [
        i
        for i, (a, b) in enumerate(zip(files["weights.data"], written["weights.data"], strict=True))
        if a != b
    ]
    address = manifest.tensors["fc.weight"]
    assert address.offset <= min(changed) <= max(changed) < address.offset + address.length
    both = {"fc.weight": new, "fc.bias": NewTensor("F32", (4,), tiny.array(8, 4).tobytes())}
    assert set(patch(source, manifest, Edit(both))) == {"", "weights.data"}
    assert patch(source, manifest, Edit({})) == {}


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("nobody", NewTensor("F32", (4, 6), bytes(96))),
        ("fc.weight", NewTensor("F16", (4, 6), bytes(96))),
        ("fc.weight", NewTensor("F32", (6, 4), bytes(96))),
        ("fc.weight", NewTensor("F32", (4, 6), bytes(95))),
    ],
)
def test_edits_that_do_not_fit(tiny, name, new):
    source = tiny.source_of(tiny.classifier())
    with pytest.raises(EditError):
        patch(source, read_manifest(source), Edit({name: new}))
