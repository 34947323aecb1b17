"""Networks of the library transformers, built from its own classes by the ``config.json`` beside the file.

That description is the word of whoever made the file: it names one of the classes below and gives numbers, truth values
and short words for the keys that this class itself declares, nothing else. No code beside the file is ever imported.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from formats.errors import UnknownArchitecture, Unsupported
from formats.safetensors.fingerprint import Shapes, is_counter
from formats.safetensors.torchvision_stub import import_torchvision

#: Largest whole number and largest other number of a description, and most of them in a list.
MOST, LARGEST, LONGEST = 1 << 16, 1e4, 64
#: Most patches along one side: some networks list every pair of patches.
MOST_PATCHES = 128
#: Most elements of tables that a network computes for itself.
MOST_COMPUTED = 1 << 26
#: Most calls of torch for a tensor that is kept, while a network is built.
_CALLS = 200
_WORD = re.compile(r"[a-z0-9_]{1,32}", re.ASCII)


def build(name: str, description: Mapping[str, Any], shapes: Shapes) -> tuple[nn.Module, dict[str, str]]:
    """The network of one of :data:`CLASSES`, its weights still to be loaded, and the name in it of each tensor of the
    file: the library renames some in memory.

    Raises :class:`UnknownArchitecture` where description and tensors do not fit each other, :class:`Unsupported` for a
    description that asks for what no such network has, or without the library.
    """
    kind = _class(name)
    config = _config(kind, description, len(shapes))
    kept = {key: shape for key, shape in shapes.items() if not is_counter(key, shape)}
    with torch.random.fork_rng(devices=[]):
        _check_sizes(kind, config, kept)
        # Every tensor is filled with its own number: where that is found again is where the library puts it.
        marks = dict(enumerate(kept))
        state = {key: torch.full(kept[key], float(mark)) for mark, key in marks.items()}
        try:
            network, told = kind.from_pretrained(
                None, config=config, state_dict=state, attn_implementation="eager", dtype=torch.float32,
                output_loading_info=True,
            )  # fmt: skip
        except Exception as error:  # whatever the library has to say of tensors that do not fit
            raise _no_fit(name, _said(error)) from error
    missing = [key for key in told["missing_keys"] if not key.endswith("num_batches_tracked")]
    for problem, keys in (("is missing", missing), ("belongs to no layer of it", told["unexpected_keys"])):
        if keys:
            raise _no_fit(name, f"{min(keys)!r} {problem}")
    names = {}
    for own, value in network.state_dict().items():
        mark = value.flatten()[:1].tolist()
        key = marks.get(int(mark[0])) if mark and not own.endswith("num_batches_tracked") else None
        if key is not None and tuple(value.shape) == kept[key] and bool((value == mark[0]).all()):
            names[key] = own
    return network.eval(), names


def _no_fit(name: str, problem: str) -> UnknownArchitecture:
    return UnknownArchitecture(f"The tensors do not fit {name}, which config.json describes: {problem}.")


def _said(error: Exception) -> str:
    return str(error).splitlines()[0][:200].rstrip(".") if str(error) else type(error).__name__


def _class(name: str) -> Any:
    """The class of the library, which is kept from asking anything of a network service."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    with suppress(Unsupported):  # the library does without torchvision
        import_torchvision()
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise Unsupported(
            "This network is one of the library transformers: pip install transformers"
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = getattr(transformers, name, None)
    if found is None:
        raise Unsupported(f"The installed transformers has no {name}; install a newer one.")
    return found


def _config(kind: Any, description: Mapping[str, Any], tensors: int) -> Any:
    """The configuration, from keys that the class itself declares: those of its base class, among them types, kernels,
    code and names of files, are left as they are."""
    import transformers

    declared = kind.config_class().to_dict().keys() - transformers.PretrainedConfig().to_dict().keys()
    values = {key: value for key, value in description.items() if key in declared and _plain(value)}
    labels = description.get("id2label")
    classes = len(labels) if isinstance(labels, dict) else description.get("num_labels", 2)
    if type(classes) is not int or not 1 <= classes <= MOST:
        raise Unsupported("config.json gives no usable number of classes.")
    counted = (
        {"id2label": {i: str(i) for i in range(classes)}}
        if isinstance(labels, dict)
        else {"num_labels": classes}
    )
    layers = sum(sum(_whole(values[key])) for key in values if "depth" in key or "layers" in key)
    if layers > tensors:
        raise Unsupported(f"config.json describes {layers} layers, and the file has {tensors} tensors.")
    try:
        config = kind.config_class(**{**values, **counted})
    except Exception as error:  # its own checks
        raise Unsupported(f"config.json describes no {kind.__name__}: {_said(error)}.") from error
    patch = min(_whole(getattr(config, "patch_size", 1)), default=1)
    if max(_whole(getattr(config, "image_size", 1)), default=1) > MOST_PATCHES * max(1, patch):
        raise Unsupported(f"config.json describes more than {MOST_PATCHES} patches along a side.")
    return config


def _plain(value: Any) -> bool:
    """A number in bounds, a truth value, a short word, or a list of these."""
    if isinstance(value, list):
        return (
            len(value) <= LONGEST
            and not any(isinstance(item, list) for item in value)
            and all(map(_plain, value))
        )
    if isinstance(value, str):
        return bool(_WORD.fullmatch(value))
    if type(value) is float:
        return abs(value) <= LARGEST
    return value is None or type(value) is bool or (type(value) is int and 0 <= value <= MOST)


def _whole(value: Any) -> list[int]:
    return [item for item in (value if isinstance(value, list | tuple) else [value]) if type(item) is int]


class _Counting(TorchFunctionMode):
    """Ends a building that goes on for longer than any network of so many tensors takes."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = most

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.left -= 1
        if self.left < 0:
            raise Unsupported("config.json describes more layers than the file has tensors for.")
        return func(*args, **(kwargs or {}))


def _check_sizes(kind: Any, config: Any, shapes: Shapes) -> None:
    """Builds it once without storage: nothing is allocated that the file does not hold too."""
    try:
        with torch.device("meta"), _Counting(_CALLS * (len(shapes) + 10)):
            network = kind(config)
    except Unsupported:
        raise
    except Exception as error:  # numbers that do not fit one another
        raise Unsupported(
            f"config.json describes no {kind.__name__} that can be built: {_said(error)}."
        ) from error
    state = network.state_dict()
    computed = sum(value.numel() for key, value in network.named_buffers() if key not in state)
    needed = sum(value.numel() for key, value in state.items() if not key.endswith("num_batches_tracked"))
    if computed > MOST_COMPUTED or needed > sum(map(math.prod, shapes.values())):
        raise _no_fit(kind.__name__, "the network that it describes is larger than the file")
