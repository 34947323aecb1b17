"""The gate for ONNX files, by the standard library alone: where the tensors lie, and what no runtime should see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from formats.errors import Hostile, Unreadable, Unsupported
from formats.model import Address, Manifest, Source
from formats.onnx.bounds import check, domain, every_node, subgraphs
from formats.onnx.messages import Message, parse
from formats.onnx.payload import address_of, external

#: What no honest exporter does, one id each; ids are stable and never reused (008 is now WIPER-FILE-001).
RULES: Mapping[str, str] = {
    "WIPER-ONNX-001": "A message is malformed: a length outside its parent, a wrong wire type, an endless number.",
    "WIPER-ONNX-002": "Messages nest deeper than 64.",
    "WIPER-ONNX-003": "Two initializers, values, attributes, functions or opsets have one name.",
    "WIPER-ONNX-004": "An initializer is also a graph input: a caller may replace the weights.",
    "WIPER-ONNX-005": "The dimensions of a tensor do not fit its payload.",
    "WIPER-ONNX-006": "A tensor has more than one payload.",
    "WIPER-ONNX-007": "External data has unknown, repeated or non-decimal keys, no location, or is not used.",
    "WIPER-ONNX-009": "External data lies outside its file, or is of another length than the tensor.",
    "WIPER-ONNX-010": "A field that may stand once stands twice; parsers would take one or merge them.",
    "WIPER-ONNX-011": "Functions call themselves, or expand beyond 100,000 nodes.",
    "WIPER-ONNX-012": "A tensor outside the main graph has external data, which runtimes look for elsewhere.",
    "WIPER-ONNX-013": "A function takes the place of a built-in operator.",
    "WIPER-ONNX-014": "An attribute holds another kind of value than it says, or several.",
    "WIPER-ONNX-015": "A node asks the runtime to run a program.",
    "WIPER-ONNX-016": "A node makes a tensor of more than a thousand million elements from what is stored.",
}

_MAX_BYTES = 2**31 - 1  # protobuf's own limit of one message
#: With what lies in other files, which may be named by any number of tensors.
_MAX_INLINED = 2**31 - 2**24
#: More names of one stored tensor than any exporter makes are not followed.
_MAX_TIED = 64


def _parse(data: bytes) -> Message:
    if not data:
        raise Unreadable("The file is empty.")
    if len(data) > _MAX_BYTES:
        raise Unsupported("The ONNX file is larger than 2 GiB, which protobuf does not allow.")
    model = parse(data)
    if "graph" not in model:
        raise Unreadable("The ONNX file holds no graph.")
    return model


def external_locations(data: bytes) -> list[str]:
    """Names of the files that hold external tensors, as the file has them, in the order met.

    Raises ``Hostile``, ``Unsupported`` and ``Unreadable`` for what cannot be read as far as that.
    """
    found = [external(tensor) for tensor, _ in _tensors(_parse(data))]
    return list(dict.fromkeys(location for location in found if location is not None))


def _tensors(model: Message) -> Iterator[tuple[Message, str | None]]:
    """Every tensor, wherever it stands, and its name where it is the main graph's own; no other is stored elsewhere."""
    for tensor, name in _all_tensors(model):
        if name is None and external(tensor) is not None:
            called = tensor.get("name", "")
            raise Hostile(
                f"Tensor {called!r} has external data but is neither an initializer nor a Constant of the main graph; "
                "runtimes look for it in the working folder.",
                "WIPER-ONNX-012",
                called,
            )
        yield tensor, name


def _all_tensors(model: Message) -> Iterator[tuple[Message, str | None]]:
    yield from _of_graph(model["graph"], True)
    for function in model.get("functions", ()):
        yield from _of_nodes(function.get("node", ()), False)
        yield from _of_nodes(({"attribute": function.get("attribute_proto", ())},), False)
    for training in model.get("training_info", ()):
        for graph in (training[name] for name in ("initialization", "algorithm") if name in training):
            yield from _of_graph(graph, False)


def _of_graph(graph: Message, main: bool) -> Iterator[tuple[Message, str | None]]:
    names = set()
    for tensor in graph.get("initializer", ()):
        name = tensor.get("name", "")
        if name in names:
            raise Hostile(
                f"Two initializers are called {name!r}; readers disagree which one counts.",
                "WIPER-ONNX-003",
                name,
            )
        names.add(name)
        yield tensor, name if main else None
    yield from _of_sparse(graph.get("sparse_initializer", ()))
    yield from _of_nodes(graph.get("node", ()), main)


def _of_nodes(nodes: Iterable[Message], main: bool) -> Iterator[tuple[Message, str | None]]:
    for node in nodes:
        outputs = node.get("output", ())
        stored = main and node.get("op_type") == "Constant" and not domain(node) and len(outputs) == 1
        for attribute in node.get("attribute", ()):
            if "t" in attribute:
                yield attribute["t"], outputs[0] if stored and attribute.get("name") == "value" else None
            for tensor in attribute.get("tensors", ()):
                yield tensor, None
            alone = (attribute["sparse_tensor"],) if "sparse_tensor" in attribute else ()
            yield from _of_sparse((*alone, *attribute.get("sparse_tensors", ())))
        for graph in subgraphs(node):
            yield from _of_graph(graph, False)


def _of_sparse(found: Iterable[Message]) -> Iterator[tuple[Message, None]]:
    for sparse in found:
        yield from ((sparse[part], None) for part in ("values", "indices") if part in sparse)


def read_manifest(source: Source) -> Manifest:
    """Address every initializer and every tensor of a Constant node (under the node's output name).

    ``aliases`` are the outputs of ``Identity`` chains, and initializers that share one external range.
    ``metadata``: ``producer``, ``producer_version``, ``ir_version``, ``opset``, ``opset.<domain>``,
    ``graph``, ``nodes`` and the file's own properties. Raises ``Unreadable``, ``Unsupported`` and ``Hostile``
    (rules above).
    """
    model = _parse(source.data)
    graph = model["graph"]
    tensors: dict[str, Address] = {}
    for tensor, name in _tensors(model):
        place = address_of(tensor, name)
        if external(tensor) is not None:
            _check_external(source, tensor, place)
        if place is not None and name is not None:
            tensors[name] = place
    if len(source.data) + sum(one.length for one in tensors.values() if one.member) > _MAX_INLINED:
        raise Unsupported("The ONNX file exceeds 2 GiB with its external tensors, which is not supported.")
    _check_inputs(model)
    for part, words in (("training_info", "training"), ("sparse_initializer", "tensors in sparse form")):
        if part in model or part in graph:
            raise Unsupported(
                f"The ONNX file holds {words}, which is not supported; export it for inference."
            )
    opsets: dict[str, int] = {}
    for one in model.get("opset_import", ()):
        version = one.get("version", 0)
        if opsets.setdefault(domain(one), version) != version:
            raise Hostile(
                f"The ONNX file imports the operators of {domain(one) or 'ai.onnx'!r} in two versions; readers "
                "disagree which one counts.",
                "WIPER-ONNX-003",
                domain(one),
            )
    check(model, source.data)

    metadata = {one.get("key", ""): one.get("value", "") for one in model.get("metadata_props", ())}
    nodes = list(every_node(model))
    told = {
        "producer": model.get("producer_name"), "producer_version": model.get("producer_version"),
        "graph": graph.get("name"), "ir_version": model.get("ir_version", 0), "nodes": len(nodes),
        **{f"opset.{place}" if place else "opset": version for place, version in opsets.items()},
    }  # fmt: skip
    metadata.update({key: str(value) for key, value in told.items() if value is not None})
    domains = sorted({*map(domain, nodes)} - {""})
    notes = tuple(f"The graph uses operators of the domain {place!r}." for place in domains)
    _name_identities(tensors, graph)
    _name_tied(tensors)
    return Manifest("onnx", tensors, metadata, notes)


def _check_external(source: Source, tensor: Message, place: Address | None) -> None:
    called = tensor.get("name", "")
    if place is None:
        raise Unsupported(f"Tensor {called!r} has external data of a type that is not supported.")
    if place.member not in source.files:
        raise Unreadable(
            f"The ONNX file keeps weights in {place.member!r}, which is missing: put it beside the model."
        )
    if place.offset + place.length > len(source.files[place.member]):
        raise Hostile(
            f"Tensor {called!r} lies outside the external file {place.member!r} (truncated?).",
            "WIPER-ONNX-009",
            called,
        )


def _check_inputs(model: Message) -> None:
    inputs = [one.get("name", "") for one in model["graph"].get("input", ())]
    if len(set(inputs)) < len(inputs):
        raise Hostile("Two inputs of the ONNX graph have one name.", "WIPER-ONNX-003")
    # Before IR 4 every initializer had to be an input as well.
    initializers = {one.get("name", "") for one in model["graph"].get("initializer", ())}
    if model.get("ir_version", 0) >= 4 and (both := initializers.intersection(inputs)):
        name = min(both)
        raise Hostile(
            f"Initializer {name!r} is also a graph input, so a caller could replace this weight; export "
            "again with keep_initializers_as_inputs=False.",
            "WIPER-ONNX-004",
            name,
        )


def _name_identities(tensors: dict[str, Address], graph: Message) -> None:
    """Give tensors the outputs of Identity chains as aliases; the chains are known to end."""
    before = {
        node["output"][0]: node["input"][0]
        for node in graph.get("node", ())
        if node.get("op_type") == "Identity" and not domain(node)
        and len(node.get("input", ())) == len(node.get("output", ())) == 1
    }  # fmt: skip
    origins: dict[str, str] = {}
    for name in before:
        chain = []
        while name in before and name not in origins:
            chain.append(name)
            name = before[name]
        origins.update(dict.fromkeys(chain, origins.get(name, name)))
    aliases: dict[str, list[str]] = {}
    for output, origin in origins.items():
        aliases.setdefault(origin, []).append(output)
    for name in aliases.keys() & tensors.keys():
        tensors[name] = replace(tensors[name], aliases=tuple(sorted(aliases[name])))


def _name_tied(tensors: dict[str, Address]) -> None:
    """Name tensors of one external range as aliases of each other; those that overlap otherwise are not writable."""
    outside = sorted(
        (one for one in tensors.values() if one.member and one.length),
        key=lambda one: (one.member, one.offset, -one.length),
    )
    group: list[Address] = []
    reach = 0
    for place in [*outside, None]:
        if place and group and group[0].member == place.member and place.offset < reach:
            group.append(place)
            reach = max(reach, place.offset + place.length)
            continue
        if len(group) > 1:
            alike = {(one.offset, one.length, one.dtype, one.shape) for one in group}
            same = len(alike) == 1 and len(group) <= _MAX_TIED
            names = [one.name for one in group]
            for one in group:
                others = tuple(name for name in names if name != one.name) if same else ()
                writable = one.writable and same
                tensors[one.name] = replace(one, aliases=(*one.aliases, *others), writable=writable)
        if place:
            group, reach = [place], place.offset + place.length
