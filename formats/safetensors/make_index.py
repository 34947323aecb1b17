"""Write the fingerprint index of a library: ``python -m formats.safetensors.make_index torchvision``.

Run it again when the library's version changes. Every classifier of the library is built once, without
storage, with a number of classes that is no other size in it: what has that size is its head.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from formats.safetensors.fingerprint import fingerprint, index_path
from formats.safetensors.torchvision_stub import import_torchvision

#: A prime that no known architecture uses as a width.
CLASSES = 1009

_FACTORIES = {
    torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand, torch.full, torch.eye,
}  # fmt: skip


class OnMeta(TorchFunctionMode):
    """Tensor factories return tensors without storage; small tables built by other means stay real."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _FACTORIES:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


Entry = tuple[str, dict[str, Any], Callable[[], torch.nn.Module]]


def torchvision_models() -> Iterator[Entry]:
    """(name, arguments, factory) of every classifier; the two with auxiliary heads also without them."""
    vision = import_torchvision()
    for name in vision.models.list_models(module=vision.models):
        build = vision.models.get_model_builder(name)
        variants: list[dict[str, Any]] = [{}]
        if name in ("googlenet", "inception_v3"):
            variants = [{"init_weights": False}, {"init_weights": False, "aux_logits": False}]
        for arguments in variants:
            yield name, arguments, partial(build, num_classes=CLASSES, **arguments)


def timm_models() -> Iterator[Entry]:
    """(name, arguments, factory) of every timm model."""
    import_torchvision()
    import timm

    for name in timm.list_models():
        yield name, {}, partial(timm.create_model, name, num_classes=CLASSES)


def build_index(library: str) -> dict[str, Any]:
    """The index of a library, with the names of models that could not be built without storage."""
    entries = {"torchvision": torchvision_models, "timm": timm_models}[library]()
    heads: list[list[str]] = []
    models: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for name, arguments, build in entries:
        try:
            with OnMeta():
                state = build().state_dict()
        except Exception as error:  # an architecture that mixes devices in its constructor
            left_out[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        head = sorted(key for key, shape in shapes.items() if CLASSES in shape)
        if not head or any(shapes[key][0] != CLASSES for key in head):
            left_out[name] = "no classification head"
            continue
        if head not in heads:
            heads.append(head)
        models.append(
            {
                "name": name,
                "arguments": arguments,
                "head": heads.index(head),
                "digest": fingerprint(shapes, tuple(head)),
            }
        )
        print(len(models), name, file=sys.stderr)
    version = sys.modules[library].__version__.split("+")[0]
    return {"library": library, "version": version, "heads": heads, "models": models, "left_out": left_out}


def main(library: str) -> None:
    """Build and write; the bytes depend on the library's version only."""
    text = json.dumps(build_index(library), separators=(",", ":"), sort_keys=True)
    index_path(library).write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main(sys.argv[1])
