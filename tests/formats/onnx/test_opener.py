"""What opening reports."""

import numpy as np
import pytest
import tiny_onnx as tiny

from formats.errors import Unreadable, Unsupported
from formats.model import Manifest, Source
from formats.onnx.manifest import read_manifest
from formats.onnx.opener import open_file


def test_opened():
    source = tiny.source_of(tiny.classifier())
    result = open_file(source, read_manifest(source), None)
    assert result.network is not None
    assert (result.runtime, result.head, result.notes) == (None, None, ())
    assert (result.architecture.name, result.architecture.how) == ("tiny", "graph")
    assert (result.input.channels, result.input.height, result.input.origin) == (3, 8, "declared")
    assert "not used" in open_file(source, read_manifest(source), "resnet18").notes[0]


def test_what_protobuf_cannot_parse():
    with pytest.raises(Unreadable):
        open_file(Source("m", b"\x08\x08\x3a\x7fabc"), Manifest("onnx", {}), None)


@pytest.mark.parametrize(
    ("nodes", "arrays", "words"),
    [
        ("Add a b > c; MatMul x c > y", {"a": np.arange(3), "b": np.arange(4)}, "cannot be computed"),
    ],
)
def test_constants_that_cannot_be_computed(nodes, arrays, words):
    with pytest.raises(Unsupported, match=words):
        tiny.opened(tiny.make_model(tiny.nodes(nodes), arrays))
