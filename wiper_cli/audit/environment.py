"""Versions and machine, as every measured result carries them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "numpy", "pillow")


def environment() -> dict[str, Any]:
    """Python, machine, cores, versions, threads, GPU and load; names no host and no user."""
    import torch

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["threads"] = torch.get_num_threads()
    found["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found["load_average"] = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return found
