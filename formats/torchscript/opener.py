"""A TorchScript file → a differentiable network whose parameters are the file's tensors.

The archive that torch loads is a copy whose floating constants begin with a number: after loading, nothing
else tells which constant of the graph is which record. Values come from the bytes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch

from formats.errors import Unsupported
from formats.model import (
    ITEM_SIZE,
    Address,
    Architecture,
    Edit,
    InputSpec,
    Manifest,
    NewTensor,
    Opened,
    Source,
)
from formats.torchscript import lift
from formats.torchscript.archive import Archive, contiguous, read_archive
from formats.torchscript.network import GraphNetwork, Slot
from formats.torchscript.patch import gather, patch

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
#: Image sizes to try when the file does not tell one, in pixels, usual ones first.
_SIZES = (64, 96, 32, 224, 28, 48, 128, 160, 192, 256, 288, 299, 384)


def open_file(source: Source, manifest: Manifest, arch: str | None = None) -> Opened:
    """Open a checked TorchScript file; ``arch`` is ignored, since the file carries its own graph.

    Raises Unsupported for what torch cannot load, quantised or stateful networks, networks saved in training
    mode, and networks that do not map one image batch to logits.
    """
    archive = read_archive(source.data)
    first = {
        name: min((name, *a.aliases), key=[*manifest.tensors].index) if a.aliases else name
        for name, a in manifest.tensors.items()
    }
    tagged, labels = _tag(source, manifest)
    module = lift.load(tagged)
    narrow = _narrow(manifest)
    lifted = lift.lift(module, [DTYPES[dtype] for dtype in narrow])
    names = [_name(argument, labels, manifest) for argument in lifted.arguments]
    registered = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    trained = _trained(lifted.arguments, names, registered)
    sources, lost = _views(manifest, [first[n] for n in names if n])
    slots: list[Slot] = []
    parameters: dict[str, torch.Tensor] = {}
    buffers: dict[str, torch.Tensor] = {}
    for index, argument in enumerate(lifted.arguments):
        if not names[index]:
            slots.append(Slot(f"constant {index}"))
            buffers[f"constant {index}"] = argument.value
            continue
        name, view = sources[first[names[index]]]
        slots.append(Slot(_key(name), view))
        values = parameters if trained[index] and name not in lost else buffers
        values.setdefault(_key(name), _value(archive, manifest.tensors[name], narrow, argument))
    buffers = {key: value for key, value in buffers.items() if key not in parameters}
    network = GraphNetwork(lifted, tuple(slots), parameters, buffers)
    spec, notes = _try_inputs(network, lifted.channels, _example(manifest))
    return Opened(
        network=network,
        tensors={name: f"weights.{_key(first[name])}" for name in manifest.tensors
                 if _key(first[name]) in parameters},
        architecture=Architecture(manifest.metadata["root_class"].rpartition(".")[2], "graph"),
        input=spec,
        notes=(*notes, *_about(narrow, lost)),
    )  # fmt: skip


def _key(name: str) -> str:
    """A name that a torch module takes for a parameter: no dots, and no method of modules is called so."""
    return name.replace(".", "/") if "." in name else f"{name}/"


def _about(narrow: Sequence[str], lost: Collection[str]) -> list[str]:
    notes = []
    if narrow:
        dtypes = " and ".join(narrow)
        notes.append(
            f"The file stores {dtypes}; the network computes in float32 and is rounded when written."
        )
    if lost:
        notes.append(f"{', '.join(sorted(lost)[:5])} overlap in the file and are not trained.")
    return notes


def _narrow(manifest: Manifest) -> list[str]:
    """Dtypes that are computed in float32: the half ones always, double when most elements are double."""
    elements: Counter[str] = Counter()
    for address in manifest.tensors.values():
        elements[address.dtype] += address.elements
    double = ["F64"] if elements["F64"] > elements["F32"] else []
    return [dtype for dtype in ("F16", "BF16") if elements[dtype]] + double


def _example(manifest: Manifest) -> tuple[int, ...] | None:
    text = manifest.metadata.get("example_shape", "")
    return tuple(map(int, text.split(","))) if text else None


def _tag(source: Source, manifest: Manifest) -> tuple[bytes, dict[int, list[str]]]:
    """A copy of the file whose floating constants begin with a number of 16 bits, and the names by number."""
    starts: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, a in manifest.tensors.items():
        if a.member.startswith("constants/") and a.dtype in ("F64", "F32", "F16", "BF16") and a.elements:
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
        width = ITEM_SIZE[manifest.tensors[labels[tags[0][0]][0]].dtype]
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


_View = tuple[tuple[int, ...], tuple[int, ...], int]


def _views(
    manifest: Manifest, names: Collection[str]
) -> tuple[dict[str, tuple[str, _View | None]], set[str]]:
    """For each tensor the one that holds its elements and the view of it; tensors that overlap otherwise.

    A frozen network may hold slices of a weight beside the weight: in the file they are the same elements.
    """
    sources: dict[str, tuple[str, _View | None]] = {}
    lost: set[str] = set()
    members: dict[str, set[str]] = defaultdict(set)
    for name in names:
        members[manifest.tensors[name].member].add(name)
    for group in members.values():
        cover: Address | None = None
        for a in sorted(
            (manifest.tensors[name] for name in group), key=lambda a: (a.offset, -a.length, a.name)
        ):
            sources[a.name] = (a.name, None)
            if cover is None or a.offset >= cover.offset + cover.length:
                cover = a
            elif cover.stride is None and a.offset + a.length <= cover.offset + cover.length:
                offset = (a.offset - cover.offset) // ITEM_SIZE[a.dtype]
                sources[a.name] = (cover.name, (a.shape, a.stride or contiguous(a.shape), offset))
            else:
                lost |= {cover.name, a.name}
                cover = max(cover, a, key=lambda a: a.offset + a.length)
    return sources, lost


def _value(archive: Archive, a: Address, narrow: Sequence[str], argument: lift.Argument) -> torch.Tensor:
    """The elements in the file, as a contiguous tensor; as loaded for dtypes that are never weights."""
    if a.dtype not in DTYPES or not a.elements:
        return argument.value
    raw = gather(archive.view, archive.entries[a.member].payload, a)
    value = torch.frombuffer(bytearray(raw), dtype=DTYPES[a.dtype]).reshape(a.shape)
    return value.float() if a.dtype in narrow else value


def _try_inputs(
    network: GraphNetwork, channels: int | None, example: tuple[int, ...] | None
) -> tuple[InputSpec, list[str]]:
    """Find out by trying which batches and image sizes the network takes; sets ``network.batch``."""
    if example is not None and len(example) != 4:
        raise Unsupported(f"The network was traced with an input of shape {list(example)}, not with images.")
    if example is not None:
        shapes, usual = [example[1:]], example[0]
    else:
        shapes, usual = [(c, s, s) for s in _SIZES for c in ((channels,) if channels else (3, 1))], 1
    taken: list[tuple[tuple[int, ...], int | None]] = []
    reason: Exception | None = None
    for shape in shapes:
        if len(taken) == 2:
            break
        try:
            taken.append((shape, _free_batch(network, shape, max(usual, 1))))
        except (RuntimeError, IndexError, Unsupported) as error:
            reason = reason or error
    if not taken:
        if example is not None or isinstance(reason, Unsupported):
            raise Unsupported(
                f"The network does not map images to logits: {str(reason).splitlines()[0]}"
            ) from reason
        return InputSpec(channels=channels), ["No usual image size fits the network; give --input-size."]
    (c, height, width), network.batch = taken[0]
    notes = (
        [f"The network takes batches of {network.batch}; others are split or filled up."]
        if network.batch
        else []
    )
    if example is not None:
        return InputSpec(c, height, width, network.batch, "declared"), notes
    if len(taken) == 2:
        return InputSpec(c, None, None, network.batch, "derived"), notes
    return InputSpec(c, height, width, network.batch, "derived"), notes


def _free_batch(network: GraphNetwork, shape: tuple[int, ...], usual: int) -> int | None:
    """``None`` when images in a larger batch get the logits of the usual one, else ``usual``."""
    x = torch.randn(usual + 1, *shape, generator=torch.Generator().manual_seed(0))
    network.batch = None
    with torch.no_grad():
        expected = network(x[:usual])
        if len(expected) != usual:
            raise RuntimeError(f"{usual} images give {len(expected)} rows")
        try:
            got = network(x)
        except RuntimeError:
            return usual
    if len(got) != usual + 1 or not torch.allclose(got[:usual], expected, 1e-3, 1e-4, equal_nan=True):
        return usual
    return None
