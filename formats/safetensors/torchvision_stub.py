"""Import torchvision beside a build of torch that its compiled operators do not fit.

A CUDA build of torchvision next to a CPU build of torch cannot load its extension. torchvision itself
tolerates that, except for two operators for which it registers fake kernels while it is imported. We declare
their schemas, without kernels: the import succeeds and a call still fails loudly. What stays unavailable is
``ops.nms``, ``ops.deform_conv2d`` and image decoding; architectures, transforms and data sets work.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from formats.errors import Unsupported

_OPERATORS = ("nms", "qnms")
#: The declarations live as long as the library object does.
_keep: list[Any] = []


def import_torchvision() -> ModuleType:
    """The module ``torchvision``; declares its two operators only when the plain import misses them.

    Raises :class:`Unsupported` when torchvision is not installed. A mismatch of CUDA versions is not hidden:
    torchvision's own RuntimeError passes through.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise Unsupported("Building this architecture needs torchvision: pip install torchvision") from error
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    import torch

    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    make: Any = torch.library.Library
    library = make("torchvision", "FRAGMENT")
    for operator in _OPERATORS:
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _keep.append(library)
    return importlib.import_module("torchvision")
