"""A TorchScript file → a differentiable network whose parameters are the file's tensors.

The archive that torch loads is a copy whose floating constants begin with a number: after loading, nothing
else tells which constant of the graph is which record. Values come from the bytes.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from formats.dtypes import FLOATS
from formats.errors import Ambiguous, Unsupported
from formats.head import walk
from formats.model import Address, Architecture, Edit, InputSpec, Manifest, NewTensor, Opened, Source
from formats.outputs import chosen, remark
from formats.ranges import contiguous
from formats.tensors import TORCH, from_bytes
from formats.torchscript import lift
from formats.torchscript.central import Archive, read_archive
from formats.torchscript.effort import Effort, TooMuch
from formats.torchscript.lift import plain_execution
from formats.torchscript.manifest import covers
from formats.torchscript.network import BATCHES, GraphNetwork, Slot, outputs_of
from formats.torchscript.patch import patch

#: Image sizes on which the batch is tried when the file tells none, in pixels; small ones cost less.
_SIZES = (32, 64, 28, 96, 224, 128, 160, 192, 240, 256, 288, 299, 336, 384, 448, 512)
#: Pixels of a larger batch that is tried.
_MAX_TRIAL = 1 << 20


def open_file(source: Source, manifest: Manifest, arch: str | None = None) -> Opened:
    """Open a checked TorchScript file; ``arch`` is ignored, since the file carries its own graph.

    Raises Unsupported for what torch cannot load, quantised or stateful networks, networks saved in training
    mode, and networks that do not map one image batch to logits.
    """
    archive = read_archive(source.data)
    tagged, labels = _tag(source, manifest)
    module = lift.load(tagged)
    narrow = _narrow(manifest)
    lifted = lift.lift(module, [TORCH[dtype] for dtype in narrow])
    names = [_name(argument, labels, manifest) for argument in lifted.arguments]
    registered = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    trained = _trained(lifted.arguments, names, registered)
    cover = covers(manifest.tensors)
    slots: list[Slot] = []
    parameters: dict[str, torch.Tensor] = {}
    buffers: dict[str, torch.Tensor] = {}
    for index, (argument, name) in enumerate(zip(lifted.arguments, names, strict=True)):
        outer = cover.get(name, "")
        if not outer:
            slots.append(Slot(f"constant {index}"))
            a = manifest.tensors.get(name)
            buffers[f"constant {index}"] = _value(archive, a, narrow, argument) if a else argument.value
            continue
        a = manifest.tensors[outer]
        slots.append(Slot(_key(outer), _view(a, manifest.tensors[name])))
        values = parameters if trained[index] else buffers
        values.setdefault(_key(outer), _value(archive, a, narrow, argument))
    buffers = {key: value for key, value in buffers.items() if key not in parameters}
    network = GraphNetwork(lifted, tuple(slots), parameters, buffers)
    network.logits = source.logits
    spec, notes = _try_inputs(network, lifted.channels, example_shape(manifest))
    if narrow:
        dtypes = " and ".join(narrow)
        notes.append(f"the file stores {dtypes}; the network computes in float32 and is rounded when written")
    return Opened(
        network=network,
        tensors={
            name: f"weights.{_key(cover[name])}"
            for name, a in manifest.tensors.items()
            if a.writable and _key(cover[name]) in parameters
        },
        architecture=Architecture(manifest.metadata["root_class"].rpartition(".")[2], "graph"),
        input=spec,
        notes=tuple(notes),
        logits=network.logits,
    )


def _key(name: str) -> str:
    """A name that a torch module takes for a parameter: no dots, and no method of modules is called so."""
    return name.replace(".", "/") if "." in name else f"{name}/"


def _narrow(manifest: Manifest) -> list[str]:
    """Dtypes that are computed in float32: the half ones unless most elements are wider, double when most elements are.

    Where they are few, what is computed in them is rounded on purpose, and would be something else in float32.
    """
    elements: Counter[str] = Counter()
    for address in manifest.tensors.values():
        elements[address.dtype] += address.elements
    others = elements["F32"] + elements["F16"] + elements["BF16"]
    double = ["F64"] if elements["F64"] > others else []
    halves = [dtype for dtype in ("F16", "BF16") if elements[dtype]]
    most = sum(elements[dtype] for dtype in halves) > elements["F32"] + elements["F64"]
    return (halves if most else []) + double


def served_dtype(manifest: Manifest) -> torch.dtype:
    """Dtype of most floating elements: what the served network takes its images in."""
    elements = Counter({"F32": 0})
    for address in manifest.tensors.values():
        if address.dtype in FLOATS:
            elements[address.dtype] += address.elements
    return TORCH[elements.most_common(1)[0][0]]


def example_shape(manifest: Manifest) -> tuple[int, ...] | None:
    """Shape of the input that the network was traced with, when the file records it."""
    text = manifest.metadata.get("example_shape", "")
    return tuple(map(int, text.split(","))) if text else None


def _tag(source: Source, manifest: Manifest) -> tuple[bytes, dict[int, list[str]]]:
    """A copy of the file whose floating constants begin with a number of 16 bits, and the names by number."""
    starts: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, a in manifest.tensors.items():
        if a.member.startswith("constants/") and a.dtype in FLOATS and a.elements:
            starts[a.member, a.offset].append(name)
    if not starts:
        return source.data, {}
    if len(starts) > 0xFFFF:
        raise Unsupported(f"The file holds {len(starts)} constants; up to 65535 can be told apart.")
    labels: dict[int, list[str]] = {}
    records: dict[str, list[tuple[int, int]]] = {}
    for number, ((member, offset), found) in enumerate(sorted(starts.items())):
        labels[number] = found
        records.setdefault(member, []).append((number, offset))
    archive = read_archive(source.data)
    whole: dict[str, Address] = {}
    edit: dict[str, NewTensor] = {}
    for member, tags in records.items():
        width = manifest.tensors[labels[tags[0][0]][0]].item
        size = archive.entries[member].size
        content = bytearray(archive.read(member))
        for number, offset in tags:
            content[offset : offset + width] = number.to_bytes(width, "little")
        whole[member] = Address(member, member, 0, size, "U8", (size,))
        edit[member] = NewTensor("U8", (size,), bytes(content))
    return patch(source, replace(manifest, tensors=whole), Edit(edit))[""], labels


def _name(argument: lift.Argument, labels: Mapping[int, list[str]], manifest: Manifest) -> str:
    """The file's name of an argument, "" when it has none."""
    if argument.name is not None:
        return argument.name if argument.name in manifest.tensors else ""
    value = argument.value
    if not value.is_floating_point() or not value.numel():
        return ""
    first = value[(0,) * value.dim()].reshape(1).view(torch.uint8)[:2].tolist()
    found = labels.get(first[0] + 256 * first[1], [])
    stride = None if value.is_contiguous() else tuple(value.stride())
    fitting = [n for n in found if manifest.tensors[n].shape == tuple(value.shape)]
    exact = [n for n in fitting if manifest.tensors[n].stride == stride]
    return next(iter(exact or fitting), "")


def _trained(
    arguments: Sequence[lift.Argument], names: Sequence[str], registered: Collection[str]
) -> list[bool]:
    """Which arguments are weights: registered parameters, else (frozen graph) all that may be one."""
    may = [
        bool(name) and a.value.is_floating_point() and not a.statistic
        for a, name in zip(arguments, names, strict=True)
    ]
    own = [ok and a.name in registered for a, ok in zip(arguments, may, strict=True)]
    if any(own):
        return own
    return [ok and a.value.dim() > 0 and not a.image for a, ok in zip(arguments, may, strict=True)]


def _view(outer: Address, inner: Address) -> tuple[tuple[int, ...], tuple[int, ...], int] | None:
    """How to see ``inner`` in the elements of ``outer``; ``None`` when they are the same."""
    if (outer.offset, outer.shape, outer.stride) == (inner.offset, inner.shape, inner.stride):
        return None
    offset = (inner.offset - outer.offset) // outer.item
    return inner.shape, inner.stride or contiguous(inner.shape), offset


def _value(archive: Archive, a: Address, narrow: Sequence[str], argument: lift.Argument) -> torch.Tensor:
    """The elements in the file, as a contiguous tensor; as loaded for dtypes that are never weights."""
    if a.dtype not in TORCH or not a.elements:
        return argument.value
    begin = archive.entries[a.member].payload + a.offset
    flat = from_bytes(archive.view[begin : begin + a.length], a.dtype)
    value = flat.as_strided(a.shape, a.stride or contiguous(a.shape)).contiguous()
    return value.float() if a.dtype in narrow else value


def _try_inputs(
    network: GraphNetwork, channels: int | None, example: tuple[int, ...] | None
) -> tuple[InputSpec, list[str]]:
    """Find out by trying whether the network takes any batch; sets ``network.batch``.

    Without a recorded example the first size that works serves, and height and width stay open.
    """
    if example is not None and (len(example) != 4 or 0 in example):
        raise Unsupported(f"The network was traced with an input of shape {list(example)}, not with images.")
    weights = sum(value.numel() for value in network.state_dict().values())
    effort = Effort(weights)
    trials = [(example[0], example[1:])] if example else list(_trials([channels] if channels else [3, 1]))
    flattens = False
    for usual, shape in trials:
        if flattens and usual > 1:
            break  # it is the size that does not fit, whatever the batch
        try:
            pixels = math.prod(shape)
            with effort.watch(usual * pixels):
                said = _settle_output(network, _noise(usual, shape))
            with Effort(weights, 3).watch((usual + 1) * pixels):
                network.batch = _fixed_batch(network, shape, usual)
        except (Ambiguous, TooMuch):
            raise
        except Exception as error:  # any operator may refuse a size, each in its own words
            if example is not None:
                reason = lift.reason(error)
                raise Unsupported(
                    f"The network fails on the shape that it was traced with: {reason}"
                ) from error
            flattens = flattens or "shapes cannot be multiplied" in str(error)
            continue
        fixed = network.batch
        notes = (
            [f"the network takes {fixed} image(s) at a time; batches are split and filled up"]
            if fixed
            else []
        )
        notes += said
        height, width = shape[1:] if example else (None, None)
        return InputSpec(shape[0], height, width, fixed, "declared" if example else "derived"), notes
    return InputSpec(channels=channels), []


def _settle_output(network: GraphNetwork, x: torch.Tensor) -> list[str]:
    """Sets ``network.logits`` where the network returns several values, and says so. Raises what
    :func:`formats.outputs.chosen` does."""
    with torch.enable_grad(), plain_execution():
        found = outputs_of(network.raw(x), len(x))
    if found.keys() == {""} and network.logits is None:
        return []
    behind = {name: set(walk(value.grad_fn)) for name, value in found.items()}
    made_from = {
        name: {other for other, value in found.items() if value.grad_fn in behind[name]} for name in found
    }
    network.logits = chosen(
        {name: value.shape[1] for name, value in found.items()}, network.logits, made_from
    )
    return [remark(network.logits, [*found])] if len(found) > 1 else []


def _noise(count: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def _trials(channels: Sequence[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Batches and shapes, one image first; larger batches only as far as they cost little."""
    for batch in BATCHES:
        for size in _SIZES:
            if batch == 1 or batch * size * size <= _MAX_TRIAL:
                yield from ((batch, (count, size, size)) for count in channels)


def _fixed_batch(network: GraphNetwork, shape: tuple[int, ...], usual: int) -> int | None:
    """``None`` when images in a larger batch get the logits of the usual one, else ``usual``."""
    x = _noise(usual + 1, shape)
    network.batch = None
    with torch.no_grad():
        expected = network(x[:usual])
        if len(expected) != usual:
            raise RuntimeError(f"{usual} images give {len(expected)} rows")
        try:
            got = network(x)
        except Exception:  # as above
            return usual
    if len(got) != usual + 1 or not torch.allclose(got[:usual], expected, 1e-3, 1e-4, equal_nan=True):
        return usual
    return None
