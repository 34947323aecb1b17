"""What opening reports."""

import pytest

from formats.errors import Unreadable
from formats.model import Manifest, Source
from formats.onnx.opener import open_file
from formats.onnx.wire import read_manifest


def test_opened(tiny):
    source = tiny.source_of(tiny.classifier())
    result = open_file(source, read_manifest(source), None)
    assert result.network is not None
    assert (result.runtime, result.head, result.notes) == (None, None, ())
    assert (result.architecture.name, result.architecture.how) == ("tiny", "graph")
    assert (result.input.channels, result.input.height, result.input.origin) == (3, 8, "declared")


def test_an_architecture_is_not_needed(tiny):
    source = tiny.source_of(tiny.classifier())
    assert "not used" in open_file(source, read_manifest(source), "resnet18").notes[0]


def test_what_protobuf_cannot_parse():
    with pytest.raises(Unreadable):
        open_file(Source("m", b"\x08\x08\x3a\x7fabc"), Manifest("onnx", {}), None)
