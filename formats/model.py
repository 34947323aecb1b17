"""What a model file is to the rest of the program: its bytes, its tensors' addresses, its network, its edits.

Importing this module imports neither torch nor numpy; the types that need them name them as strings.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

from formats.dtypes import BITS
from formats.ending import Ending

if TYPE_CHECKING:
    import torch

#: Names of the folders below ``formats``, see :mod:`formats.kinds`.
Kind = Literal["safetensors", "torchscript", "onnx"]


@dataclass(frozen=True)
class Source:
    """The bytes of one model file and of what lies beside it, read once.

    ``data``: the model file. ``files``: other files that hold tensors, by the location the model names
    (ONNX external data). ``sidecars``: small descriptive files of the same folder (``config.json``, …).
    ``logits``: name of the output that is meant, where the model has several.
    """

    name: str
    data: bytes
    files: Mapping[str, bytes] = field(default_factory=dict)
    sidecars: Mapping[str, bytes] = field(default_factory=dict)
    logits: str | None = None

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the model file as 64 hex digits; external files do not enter it."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def digest(self) -> str:
        """Of the model file and of what it keeps outside: :attr:`sha256` where that is nothing."""
        if not self.files:
            return self.sha256
        parts = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(self.files.items())}
        return hashlib.sha256(repr((self.sha256, parts)).encode()).hexdigest()

    def rewritten(self, written: Mapping[str, bytes]) -> Source:
        """With the new content of the model file (under "") and of external files (by location)."""
        files = {name: written.get(name, old) for name, old in self.files.items()}
        return replace(self, data=written.get("", self.data), files=files)

    @property
    def size(self) -> int:
        """Bytes of the model file and its external files together."""
        return len(self.data) + sum(len(part) for part in self.files.values())


@dataclass(frozen=True)
class Address:
    """Where one stored tensor lies, and under which name.

    ``name``: unique in the file. ``member``: "" for the model file itself, else the archive entry or the
    external file. ``offset``, ``length``: bytes, from the beginning of the *member's payload* (for "" from
    the beginning of the file). ``stride``: elements, ``None`` when C-contiguous. ``aliases``: other names
    of the very same stored elements, which can only change together. ``writable``: False when the encoding
    has no fixed byte range (varint fields, quantised by other means, …).
    """

    name: str
    member: str
    offset: int
    length: int
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None = None
    aliases: tuple[str, ...] = ()
    writable: bool = True

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def item(self) -> int:
        """Bytes of one element; 1 where it is smaller."""
        return max(1, BITS[self.dtype] // 8)

    @property
    def size(self) -> int:
        """Bytes of all elements, without what lies between them in the file."""
        return self.elements * BITS[self.dtype] // 8


@dataclass(frozen=True)
class Manifest:
    """What can be said of a file from its bytes alone."""

    kind: Kind
    tensors: Mapping[str, Address]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NewTensor:
    """New values of one tensor: little-endian, C-contiguous, in the dtype of the file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Edit:
    """New values for named tensors of one file; everything else stays."""

    tensors: Mapping[str, NewTensor]

    def __bool__(self) -> bool:
        return bool(self.tensors)


@dataclass(frozen=True)
class InputSpec:
    """What the network takes: ``[batch, channels, height, width]``; ``None`` is free or unknown."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    batch: int | None = None
    #: "declared" by the file, "derived" from the first layer or by trying, "unknown".
    origin: str = "unknown"
    #: The network takes the numbers of a picture, 0..255, and scales them itself: nothing else is right.
    whole: bool = False


@dataclass(frozen=True)
class Preprocessing:
    """A hint found in the file or beside it. Sizes in pixels; mean and std on images in 0..1.

    ``resize``: length of the shorter side, ``scaled``: height and width before the centre is cut out; ``floor``: the
    corner of the centre is rounded down. ``bgr``: blue comes first.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    resize: int | None = None
    interpolation: str | None = None
    origin: str = ""
    scaled: tuple[int, int] | None = None
    floor: bool = False
    bgr: bool = False


@dataclass(frozen=True)
class Architecture:
    """Which network was chosen for the file and how: by graph, option, sidecar, metadata, or fingerprint."""

    name: str
    how: str
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Head:
    """The last linear map to the logits. ``units`` (D) are its inputs, ``classes`` (K) its outputs.

    With ``classes`` 1 they are one number that stands for two classes, see :mod:`formats.ending`.
    ``weight``, ``bias``: names of tensors of the file. ``layout``: how the file stores the weight.
    ``linear``: the logits equal ``features @ W.T + b`` (checked when opening); False when something
    follows the map (an activation before pooling, a second averaged head), and then only whole-network
    methods apply. ``scale``: constant factor behind the map, 1.0 as a rule.
    """

    weight: str
    bias: str | None
    units: int
    classes: int
    layout: Literal["out_in", "in_out", "conv"] = "out_in"
    linear: bool = True
    scale: float = 1.0
    #: All weights found at the frontier when there is more than one head.
    frontier: tuple[str, ...] = ()


class Runtime(Protocol):
    """What runs a file that has no differentiable network (unknown operator, quantised graph)."""

    def features_and_logits(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``x`` float32 [N,C,H,W], normalised → features [N,D], logits [N,K], both float32 on the CPU."""
        ...


@dataclass
class Model:
    """An opened model file.

    ``network``: a torch module in eval mode, float32 ``[N,C,H,W]`` (already normalised) → logits ``[N,K]``,
    differentiable, ``copy.deepcopy``-able, movable with ``.to(device)``; ``None`` when the file was opened
    *head-only*, and then ``runtime`` runs it. Fixed batch sizes are handled inside.
    ``tensors``: name in the file → name in ``network.named_parameters()``, for every trainable weight
    that reaches the output. Two names of one stored tensor map to one parameter. Batch-norm statistics and
    constants are not in it: they are never trained.
    """

    source: Source
    manifest: Manifest
    network: torch.nn.Module | None
    tensors: Mapping[str, str]
    head: Head | None
    classes: int
    architecture: Architecture
    input: InputSpec
    class_names: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    runtime: Runtime | None = None
    #: How what the file gives becomes logits, and back.
    ending: Ending = field(default_factory=Ending)
    #: Each class has a sigmoid of its own, and is answered by being above its threshold.
    multilabel: bool = False
    #: The network takes blue first, and pictures are read red first.
    bgr: bool = False
    #: Sentences on what opening had to leave out or decide.
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """Kind of the file."""
        return self.manifest.kind

    @property
    def head_only(self) -> bool:
        """True when gradients stop at the head, because the body runs in a foreign runtime."""
        return self.network is None

    def named(self, network: torch.nn.Module | None = None) -> dict[str, Any]:
        """Name in the file → parameter of ``network`` (a deepcopy of ours; ours when ``None``)."""
        network = network if network is not None else self.network
        if network is None:
            return {}
        parameters = dict(network.named_parameters())
        return {name: parameters[inner] for name, inner in self.tensors.items()}

    def statistics(self, network: torch.nn.Module | None = None) -> dict[str, Any]:
        """Name in the file → running mean or variance of a batch norm of ``network``, a buffer. Empty where batch
        norm is folded or part of a graph: then it has no training mode."""
        network = network if network is not None else self.network
        if network is None:
            return {}
        stems = {
            inner.removesuffix("weight"): name.removesuffix("weight") for name, inner in self.tensors.items()
        }
        found = {}
        for path, module in network.named_modules():
            # By name, since this module does without torch.
            norm = any(kind.__name__ == "_BatchNorm" for kind in type(module).__mro__)
            if norm and f"{path}." in stems:
                for kind in ("running_mean", "running_var"):
                    name, buffer = stems[f"{path}."] + kind, getattr(module, kind)
                    if buffer is not None and name in self.manifest.tensors:
                        found[name] = buffer
        return found


@dataclass
class Opened:
    """What the opener of one kind hands to :func:`formats.open_model`, which finds head and classes."""

    network: torch.nn.Module | None
    tensors: Mapping[str, str]
    architecture: Architecture
    input: InputSpec = field(default_factory=InputSpec)
    class_names: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    #: Set with ``network=None``: the runtime, and the head that was found by other means than autograd.
    runtime: Runtime | None = None
    head: Head | None = None
    notes: tuple[str, ...] = ()
    #: Name of the output that was taken, where the file has several.
    logits: str | None = None
    #: A final sigmoid was left out: ``network`` gives what it is applied to.
    sigmoid: bool = False
