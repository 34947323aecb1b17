"""Open a model file as a differentiable network, and find its classes, its head and its input by trying.

The opener of each kind builds the network; what is common to all kinds is decided here, on that network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor, nn

from formats.dataflow import Dataflow
from formats.ending import Ending
from formats.errors import FormatError, Unsupported
from formats.head import behind_views, find_head, reaching
from formats.identify import identify, inspect
from formats.kinds import opener, server, tracer
from formats.model import InputSpec, Manifest, Model, Opened, Preprocessing, Source
from formats.outputs import rows
from formats.sidecar import class_names_hint, preprocessing_hint

#: Side lengths tried, in this order, when neither the file nor a description tells one.
SIZES = (32, 224, 28, 64, 96, 128, 160, 299, 192, 240, 256, 288, 336, 384, 448, 512)
#: Most numbers that a network may ask for at once, as a float32 tensor 1 GiB.
MAX_INPUT = 1 << 28
#: Largest side that is sought where a layer says how many numbers it takes, and how far others of one kind may be.
LARGEST_SIDE, _ALIKE = 640, 8
_PRODUCT = re.compile(r"shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)")
#: How much larger a second image is that shows whether the size is free.
_STEP = 32


def open_model(source: Source, arch: str | None = None, manifest: Manifest | None = None) -> Model:
    """Open a file; ``arch`` names the architecture of a safetensors file.

    Raises the errors of the file's kind, and :class:`Unsupported` for weights that are not finite or a
    network that is no image classifier.
    """
    manifest = manifest or inspect(source)
    opened = opener(manifest.kind).open_file(source, manifest, arch)
    source = replace(source, logits=opened.logits)
    preprocessing = preprocessing_hint(source, manifest) or opened.preprocessing
    if opened.network is None:
        return _head_only(source, manifest, opened, preprocessing)
    network = _Classifier(opened.network).eval()
    tensors = {name: f"network.{inner}" for name, inner in opened.tensors.items()}
    _check_finite(network, tensors, manifest)
    sizes = [preprocessing.size] if preprocessing and preprocessing.size else []
    spec, example, logits = _find_input(network, opened.input, sizes, manifest)
    notes = [*manifest.notes, *opened.notes]
    if not bool(logits.isfinite().all()):
        raise Unsupported("The network's output is not finite on a random image; its weights are damaged.")
    with _differentiated():
        network.ending = _ending(network, example, logits)
    if network.ending.softmax:
        notes.append("the file ends in a softmax; its logarithm serves as logits")
    sigmoid = network.ending.sigmoid or opened.sigmoid
    if network.ending.single:
        notes.append(
            f"one {'sigmoid' if sigmoid else 'logit'} stands for two classes; above the middle it is class 1"
        )
    elif sigmoid:
        notes.append(f"each of the {logits.shape[1]} classes has a sigmoid of its own (multi-label)")
    with _differentiated():
        tensors = _that_reach(network, tensors, example)
        head = find_head(network, tensors, example, logits.shape[1])
    if head is None:
        notes.append("no stored weight is the last linear map: methods that need a head cannot run")
    elif head.frontier:
        notes.append(f"several heads are combined: {', '.join(head.frontier)}")
    elif not head.linear:
        notes.append(f"something follows the head {head.weight!r}: methods on the head alone cannot run")
    return Model(
        source=source,
        manifest=manifest,
        network=network,
        tensors=tensors,
        head=head,
        classes=max(logits.shape[1], 2),
        architecture=opened.architecture,
        input=spec,
        class_names=opened.class_names or class_names_hint(source, manifest, max(logits.shape[1], 2)),
        preprocessing=preprocessing,
        ending=network.ending,
        multilabel=sigmoid and not network.ending.single,
        notes=tuple(dict.fromkeys(notes)),
    )


def serve(source: Source, arch: str | None = None) -> Callable[[Tensor], Tensor]:
    """Normalised float32 [N,C,H,W] → logits [N,K], as the runtime that would serve the file computes them."""
    return server(identify(source.data, source.name)).serve(source, arch)


def trace(source: Source, manifest: Manifest | None = None) -> Dataflow | None:
    """The dataflow of a model file; ``None`` for safetensors, which holds no graph.

    Nothing of the file runs, but torch compiles the code of a TorchScript file: call it where that may happen. Raises
    :class:`formats.errors.Unsupported` for a graph that cannot be followed, ``Hostile`` and ``Unreadable`` as opening.
    """
    manifest = manifest or inspect(source)
    if manifest.kind == "safetensors":
        return None
    try:
        return tracer(manifest.kind).trace(source, manifest)
    except FormatError:
        raise
    except Exception as error:  # what torch and protobuf raise for graphs that no exporter writes
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise Unsupported(f"The graph cannot be followed: {reason}") from error


@contextmanager
def _differentiated() -> Iterator[None]:
    """A network that ran may still refuse gradients: it changes its weights where it runs, or asks for them."""
    try:
        yield
    except RuntimeError as error:
        reason = (
            (str(error).strip().splitlines() or [""])[-1].removeprefix("RuntimeError: ")[:200].rstrip(".")
        )
        raise Unsupported(f"The network cannot be differentiated: {reason}.") from error


class _Classifier(nn.Module):
    """``network`` with its first output as logits [N,K]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.ending = Ending()

    def forward(self, x: Tensor) -> Tensor:
        output = self.network(x)
        while not isinstance(output, Tensor):
            output = next(iter(output.values() if isinstance(output, dict) else output))
        if output.ndim > 2 and output.shape[2:].numel() == 1:
            output = output.flatten(1)
        return self.ending.logits(rows(output, len(x)))


def _head_only(
    source: Source, manifest: Manifest, opened: Opened, preprocessing: Preprocessing | None
) -> Model:
    if opened.runtime is None or opened.head is None:
        raise Unsupported("The file has neither a network that can be opened here nor a head that was found.")
    if opened.head.classes < 2:
        raise Unsupported(
            "The file can be opened head-only, and has one logit for two classes: not supported together."
        )
    return Model(
        source=source,
        manifest=manifest,
        network=None,
        tensors=opened.tensors,
        head=opened.head,
        classes=opened.head.classes,
        architecture=opened.architecture,
        input=opened.input,
        class_names=opened.class_names or class_names_hint(source, manifest, opened.head.classes),
        preprocessing=preprocessing,
        runtime=opened.runtime,
        multilabel=opened.sigmoid,
        notes=(*manifest.notes, *opened.notes),
    )


def _check_finite(network: nn.Module, tensors: dict[str, str], manifest: Manifest) -> None:
    """Weights, and batch-norm statistics that are tensors of the file; masks may hold -inf."""
    parameters = dict(network.named_parameters())
    values: dict[str, Tensor] = {name: parameters[inner] for name, inner in tensors.items()}
    for inner, buffer in network.named_buffers():
        if inner.endswith((".running_mean", ".running_var")):
            values[inner.removeprefix("network.")] = buffer
    for name, value in values.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise Unsupported(f"Tensor {name!r} holds values that are not finite (NaN or infinity).")


def _find_input(
    network: nn.Module, declared: InputSpec, sizes: list[tuple[int, int]], manifest: Manifest
) -> tuple[InputSpec, Tensor, Tensor]:
    """What the network takes, an example [2,C,H,W] of it that was tried, and its logits."""
    generator = torch.Generator().manual_seed(0)
    error: Exception | None = None
    asked = [declared.batch or 2, declared.channels or 1, declared.height or 1, declared.width or 1]
    if math.prod(asked) > MAX_INPUT:
        raise Unsupported(
            f"The network takes images as {asked}, which is more than {MAX_INPUT} numbers at a time."
        )
    for channels, height, width in chain(_candidates(declared, sizes, manifest), _fitting(network, declared)):
        example = torch.randn(2, channels, height, width, generator=generator)
        example = 128 + 64 * example if declared.whole else example
        try:
            logits = _try(network, example)
        except Exception as raised:  # any layer may refuse a size, each in its own words
            error = error or raised
            continue
        if logits.ndim != 2 or len(logits) != 2 or logits.shape[1] < 1:
            raise Unsupported(
                f"The network's output has the shape {list(logits.shape)} for two images; "
                "an image classifier gives one row of logits for each."
            )
        if declared.height is not None and declared.origin == "declared":
            return replace(declared, channels=channels), example, logits
        free = _accepts(network, torch.randn(2, channels, height + _STEP, width + _STEP, generator=generator))
        spec = InputSpec(
            channels,
            None if free else height,
            None if free else width,
            declared.batch,
            declared.origin if declared.channels is not None and free else "derived",
            declared.whole,
        )
        return spec, example, logits
    reason = f" ({str(error).splitlines()[0][:200]})" if error is not None and str(error) else ""
    raise Unsupported(f"The network takes none of the usual image sizes{reason}.") from error


def _candidates(
    declared: InputSpec, sizes: list[tuple[int, int]], manifest: Manifest
) -> Iterator[tuple[int, int, int]]:
    """(channels, height, width) in the order of trying."""
    own = [(declared.height, declared.width)] if declared.height and declared.width else []
    if declared.origin != "declared" or not own:
        own += [*sizes, *((side, side) for side in SIZES)]
    other = {a.shape[1] for a in manifest.tensors.values() if len(a.shape) == 4 and a.shape[1] <= 16}
    channels = [declared.channels] if declared.channels else [3, 1, *sorted(other - {1, 3})]
    for height, width in dict.fromkeys(own):
        for count in channels:
            yield count, height, width


def _fitting(network: nn.Module, declared: InputSpec) -> Iterator[tuple[int, int, int]]:
    """As :func:`_candidates`, the square that a network needs which flattens its maps for a linear layer: torch says
    how many numbers the layer got and how many it takes, and more pixels give more. Of several, a round one."""
    if declared.height and declared.width:
        return
    for channels in [declared.channels] if declared.channels else [3, 1]:
        low, high = 1, LARGEST_SIDE

        def compared(side: int, channels: int = channels) -> int:
            """Whether the layer gets less (-1) or more (1) than it takes."""
            try:
                _try(network, torch.zeros(2, channels, side, side))
            except Exception as error:  # too small an image fails in any layer's words
                found = _PRODUCT.search(str(error))
                return 1 if found and int(found[1]) > int(found[2]) else -1
            return 0

        while low <= high:
            side = (low + high) // 2
            outcome = compared(side)
            if not outcome:
                alike = [one for one in range(side - _ALIKE, side + _ALIKE) if one > 0 and not compared(one)]
                side = next((one for step in (32, 10, 4) for one in alike if one % step == 0), side)
                yield channels, side, side
                break
            low, high = (side + 1, high) if outcome < 0 else (low, side - 1)


@torch.no_grad()
def _try(network: nn.Module, example: Tensor) -> Tensor:
    logits: Tensor = network(example)
    return logits


def _accepts(network: nn.Module, example: Tensor) -> bool:
    try:
        _try(network, example)
    except Exception:  # as above: a refusal is the answer
        return False
    return True


def _ending(network: nn.Module, example: Tensor, output: Tensor) -> Ending:
    """What ``output`` is, by its values and by what made it last."""
    if output.shape[1] > 1 and bool((output >= 0).all() and ((output.sum(1) - 1).abs() < 1e-4).all()):
        return Ending(softmax=True)
    with torch.enable_grad():
        last = behind_views(network(example).grad_fn)
    return Ending(sigmoid=last.startswith("SigmoidBackward"), single=output.shape[1] == 1)


def _that_reach(network: nn.Module, tensors: dict[str, str], example: Tensor) -> dict[str, str]:
    """The tensors from which a gradient reaches the logits; these alone require one from here on."""
    parameters = dict(network.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    inner = {name for name in tensors.values() if parameters[name].is_floating_point()}
    for name in inner:
        parameters[name].requires_grad_(True)
    with torch.enable_grad():
        used = reaching(network(example))
    for name in inner:
        if id(parameters[name]) not in used:
            parameters[name].requires_grad_(False)
    return {name: at for name, at in tensors.items() if id(parameters[at]) in used}
