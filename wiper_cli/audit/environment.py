"""Versions and machine, as every report and every measured result carries them."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

LIBRARIES = ("torchvision", "timm", "onnx", "onnxruntime", "numpy", "pillow")


def reported() -> dict[str, Any]:
    """What a report shows: Python, torch, platform, threads."""
    import torch

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def environment() -> dict[str, Any]:
    """All that may change a measured number: also machine, cores, versions, GPU, load; names no host and no user."""
    import torch

    found = {**reported(), "machine": platform.machine(), "cores": os.cpu_count()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found["load_average"] = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return found
