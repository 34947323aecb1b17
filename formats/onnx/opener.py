"""Open an ONNX file: as a differentiable network where every operator is known, else head-only."""

from __future__ import annotations

from formats.model import Architecture, Manifest, Opened, Source
from formats.onnx import proto
from formats.onnx.graph import build


def open_file(source: Source, manifest: Manifest, arch: str | None = None) -> Opened:
    """Open ``source``; the graph is its own architecture, so ``arch`` is ignored with a note.

    Raises ``Unsupported`` when the graph takes no images, gives no logits, or has unknown operators and no
    last linear map to stop at.
    """
    model = proto.load(source, manifest)
    entry = proto.signature(model)
    nodes = proto.live(model.graph.node, entry.output)
    notes = list(entry.notes)
    if arch is not None:
        notes.append("An ONNX file holds its own graph: the given architecture is not used.")
    name = manifest.metadata.get("graph") or manifest.metadata.get("producer", "ONNX graph")
    architecture = Architecture(name, "graph")
    missing = proto.unknown(nodes, proto.opset(model))
    if missing:
        raise NotImplementedError(missing)
    network, tensors = build(model, nodes, entry, manifest)
    return Opened(network, tensors, architecture, entry.spec, notes=tuple(notes))
