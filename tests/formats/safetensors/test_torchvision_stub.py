"""torchvision is imported with as little tolerance as it needs."""

import importlib

import pytest
import torch

from formats import Unsupported
from formats.safetensors import torchvision_stub
from formats.safetensors.torchvision_stub import import_torchvision


def failing(monkeypatch, error):
    def refuse(name):
        raise error

    monkeypatch.setattr(importlib, "import_module", refuse)


def test_architectures_and_transforms_work_and_missing_kernels_fail_loudly():
    vision = import_torchvision()
    assert import_torchvision() is vision
    assert vision.models.resnet18 is not None
    importlib.import_module("torchvision.transforms.v2")
    if torchvision_stub._keep:
        boxes = torch.rand(3, 4)
        with pytest.raises((RuntimeError, NotImplementedError)):
            vision.ops.nms(boxes, boxes[:, 0], 0.5)


def test_not_installed_is_one_sentence(monkeypatch):
    failing(monkeypatch, ModuleNotFoundError("No module named 'torchvision'", name="torchvision"))
    with pytest.raises(Unsupported, match="pip install torchvision"):
        import_torchvision()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("PyTorch and torchvision were compiled with different CUDA major versions"),
        ModuleNotFoundError("No module named 'PIL'", name="PIL"),
    ],
)
def test_a_real_mismatch_is_not_hidden(monkeypatch, error):
    failing(monkeypatch, error)
    with pytest.raises(type(error)) as raised:
        import_torchvision()
    assert raised.value is error
