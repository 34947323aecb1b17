"""A model's external files get names of ours: nothing but these names changes, wherever a tensor stands."""

import onnx
import pytest
from onnx import TensorProto, helper
from tiny_onnx import classifier, externalised, make_model, nodes, opened, source_of, tied

from formats import Edit, EditError, own_names, read_source, write_edit
from formats import inspect as manifest_of
from formats.onnx.patch import renamed
from formats.write import DATA_NAME


def named(model, files, name="out.onnx"):
    source = source_of(model, files)
    return own_names(source, manifest_of(source), write_edit(source, manifest_of(source), Edit({})), name)


def outside(name, location="w.bin"):
    tensor = TensorProto(name=name, data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def everywhere():
    """A tensor with external data in every place where the format lets one stand."""
    sparse = onnx.SparseTensorProto(values=outside("v"), indices=outside("i"), dims=[9])
    inner = helper.make_graph([], "inner", [], [], [outside("a")])
    node = onnx.NodeProto(op_type="Any", input=["x"], output=["y"])
    node.attribute.extend([
        onnx.AttributeProto(name="t", type=4, t=outside("b")),
        onnx.AttributeProto(name="ts", type=9, tensors=[outside("c"), outside("d")]),
        onnx.AttributeProto(name="g", type=5, g=inner),
        onnx.AttributeProto(name="gs", type=10, graphs=[inner, inner]),
        onnx.AttributeProto(name="s", type=11, sparse_tensor=sparse),
        onnx.AttributeProto(name="ss", type=12, sparse_tensors=[sparse]),
    ])  # fmt: skip
    model = make_model([node], {})
    model.graph.initializer.append(outside("e"))
    model.graph.sparse_initializer.append(sparse)
    function = onnx.FunctionProto(name="f", domain="d", node=[node])
    function.attribute_proto.append(onnx.AttributeProto(name="t", type=4, t=outside("g")))
    model.functions.append(function)
    training = model.training_info.add()
    training.initialization.CopyFrom(inner)
    training.algorithm.CopyFrom(inner)
    model.metadata_props.add(key="location", value="w.bin")
    return model


@pytest.mark.parametrize("new", ["w.bin", "W.BIN", "a", "x" * 200])
def test_every_place_is_found_and_nothing_else_changes(new):
    model = everywhere()
    data = model.SerializeToString()
    found = onnx.ModelProto.FromString(renamed(data, {"w.bin": new, "other": "z"}))
    # Put by protobuf: all but the property, which names no file.
    by_text = onnx.ModelProto.FromString(data.replace(b"w.bin", b"W.BIN"))
    by_text.metadata_props[0].value = "w.bin"
    if len(new) == 5:
        assert str(found) == str(by_text).replace("W.BIN", new)
    assert renamed(found.SerializeToString(), {new: "w.bin"}) == data
    assert str(found).count(f'value: "{new}"') + (new != "w.bin") == str(model).count('value: "w.bin"') > 20
    assert renamed(data, {"other": "z"}) == data


def test_a_model_keeps_its_tensors_under_our_names(tmp_path):
    model, files = externalised(classifier(), ".bashrc")
    source = source_of(model, files)
    written = named(model, files)
    (data,) = set(written) - {"out.onnx"}
    assert (list(written)[-1], data[:9], data[-5:]) == ("out.onnx", "out.onnx.", ".data")
    assert DATA_NAME.fullmatch(data)
    assert (written[data], b".bashrc" in written["out.onnx"]) == (files[".bashrc"], False)
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
    again = read_source(tmp_path / "out.onnx")
    assert opened(onnx.ModelProto.FromString(again.data), again.files).network is not None
    before, after = manifest_of(source).tensors, manifest_of(again).tensors
    assert {name: (a.offset, a.length) for name, a in after.items()} == {
        name: (a.offset, a.length) for name, a in before.items()
    }
    assert {a.member for a in after.values()} == {data}


def test_several_files_are_numbered_and_their_digest_is_of_all(tmp_path):
    model, _ = externalised(classifier())
    for tensor in model.graph.initializer:
        tensor.external_data[0].value, tensor.external_data[1].value = tensor.name, "0"
    files = {tensor.name: bytes([at]) * 9000 for at, tensor in enumerate(model.graph.initializer)}
    written = named(model, files)
    digests = {name.split(".")[2].partition("-")[0] for name in written if name != "out.onnx"}
    assert (len(written), len(digests)) == (len(files) + 1, 1)
    assert sorted(name.rpartition("-")[2] for name in written if name != "out.onnx") == [
        f"{n}.data" for n in range(1, len(files) + 1)
    ]
    changed = named(model, files | {"fc.bias": b"z" * 9000})
    assert set(changed) & set(written) == {"out.onnx"}


def test_shared_files_and_models_without_any():
    model, files = tied(classifier())
    assert len(named(model, files)) == 2
    assert named(classifier(), {}) == {"out.onnx": classifier().SerializeToString()}


@pytest.mark.parametrize("name", [".hidden.onnx", "a b.onnx", "é.onnx", "-x.onnx", "n\new", "\udcff.onnx"])
def test_a_name_that_is_not_plain_names_no_data(name):
    model, files = externalised(classifier())
    assert [one[:6] for one in named(model, files, name) if one != name] == ["model."]


def test_lengths_written_in_more_bytes_than_needed_are_not_proved():
    """Rewriting them would change more than names."""
    model, files = externalised(classifier(), "w.bin")
    head, graph = onnx.ModelProto(ir_version=8), model.graph.SerializeToString()
    size = len(graph)
    padded = bytes([0x3A, size & 0x7F | 0x80, size >> 7 | 0x80, 0]) + graph
    source = source_of(model, files)
    with pytest.raises(EditError, match="cannot be changed alone"):
        own_names(source, manifest_of(source), {"": head.SerializeToString() + padded}, "out.onnx")


def test_a_place_that_the_writer_overlooks_is_found(monkeypatch):
    model, files = externalised(classifier())
    monkeypatch.setattr("formats.onnx.patch.renamed", lambda data, names: data)
    with pytest.raises(EditError, match="cannot be changed alone"):
        named(model, files)


def test_identity_of_nodes_survives():
    model, files = externalised(
        make_model(nodes("Flatten x > f; Gemm f w > y | transB=1"), {"w": [[1.0] * 192]})
    )
    written = named(model, files)
    assert onnx.ModelProto.FromString(written["out.onnx"]).graph.node == model.graph.node
