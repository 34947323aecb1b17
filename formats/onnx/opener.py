"""Open an ONNX file: as a differentiable network where every operator is known, else head-only."""

from __future__ import annotations

from collections.abc import Sequence

from formats.errors import FormatError, Unsupported
from formats.model import Architecture, Manifest, Opened, Source
from formats.onnx import proto
from formats.onnx.graph import build
from formats.onnx.headless import HeadRuntime
from formats.onnx.images import require_moves
from formats.onnx.serving import TooNew

#: Operators of quantised graphs, besides those whose name begins with QLinear.
_QUANTISED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "ConvInteger",
    "MatMulInteger",
    "QGemm",
)


def open_file(source: Source, manifest: Manifest, arch: str | None = None) -> Opened:
    """Open ``source``; the graph is its own architecture, so ``arch`` is ignored with a note.

    Raises ``Unsupported`` when the graph takes no images or gives no logits, or when it has unknown operators
    and no last linear map with stored weights.
    """
    model = proto.load(source, manifest)
    entry = proto.signature(model, source.logits)
    nodes = proto.live(model.graph, entry.output)
    notes = list(entry.notes)
    if arch is not None:
        notes.append("An ONNX file holds its own graph: the given architecture is not used.")
    name = manifest.metadata.get("graph") or manifest.metadata.get("producer", "ONNX graph")
    architecture = Architecture(name, "graph")
    missing = proto.unknown(nodes, proto.opset(model))
    if not missing:
        if entry.spec.whole:
            require_moves(nodes, entry.input)
        try:
            network, tensors = build(model, nodes, entry, manifest)
        except FormatError:
            raise
        except Exception as error:  # what constant nodes raise when they are folded
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise Unsupported(f"The ONNX graph cannot be computed: {reason}") from error
        return Opened(
            network,
            tensors,
            architecture,
            entry.spec,
            notes=tuple(notes),
            logits=entry.served,
            sigmoid=entry.sigmoid,
        )
    reason = _reason(missing)
    try:
        runtime = HeadRuntime(source, manifest)
    except TooNew:
        raise
    except Unsupported as error:
        raise Unsupported(f"The ONNX file cannot be opened as a network: {reason}. {error}") from error
    notes.append(
        f"Opened head-only, because {reason}: features come from onnxruntime and only the last layer can be "
        "changed; methods that need gradients through the network do not run."
    )
    return Opened(
        None,
        {},
        architecture,
        entry.spec,
        runtime=runtime,
        head=runtime.head,
        notes=tuple(notes),
        logits=entry.served,
        sigmoid=entry.sigmoid,
    )


def _reason(missing: Sequence[proto.Unknown]) -> str:
    kinds = [one.operator.rpartition("::")[2] for one in missing]
    if all(kind in _QUANTISED or kind.startswith("QLinear") for kind in kinds):
        return f"the graph is quantised ({', '.join(sorted(set(kinds)))})"
    listed = "; ".join(str(one) for one in missing[:8])
    more = f"; {len(missing) - 8} more" if len(missing) > 8 else ""
    return f"these operators are unknown here: {listed}{more}"
