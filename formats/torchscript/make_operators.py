"""Write the list of operators that reference models use: ``python -m formats.torchscript.make_operators``.

Run it again when torch, torchvision or timm change. Every model is traced, scripted and both frozen; what cannot be
scripted is left out. Takes an hour on one core.
"""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch

from formats.safetensors.torchvision_stub import import_torchvision
from formats.torchscript.central import read_archive
from formats.torchscript.code import read_code
from formats.torchscript.manifest import code_files
from formats.torchscript.operators import PATH

_TORCHVISION = """
alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t
mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d
shufflenet_v2_x0_5 squeezenet1_0 swin_t swin_v2_t vgg11_bn vit_b_16
"""

#: The smallest of every module of timm, and of the larger modules one for each kind of block.
_TIMM = """
bat_resnext26ts beitv2_base_patch16_224 botnet26t_256 cait_xxs24_224 coat_lite_tiny coat_tiny convit_tiny
convmixer_768_32 convnextv2_atto crossvit_9_240 crossvit_9_dagger_240 cs3darknet_focus_s cspnext_tiny
cspresnet50 darknet17 davit_tiny deit3_small_patch16_224 deit_tiny_distilled_patch16_224 densenetblur121d
dla46_c dpn48b eca_halonext26ts ecaresnet26t edgenext_xx_small efficientformer_l1 efficientformerv2_s0
efficientnet_cc_b0_4e efficientvim_m1 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0
fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_050 ghostnetv2_100 lambda_resnet26t mixnet_s resnet10t
resnet50_clip resnetaa34d resnetblur18 seresnext26d_32x4d skresnet18 test_byobnet test_coatnet test_convnext
test_efficientnet test_efficientnet_evos test_efficientnet_ln test_mambaout test_maxvit test_nfnet
test_resnet test_vit test_vit_relpos vit_tiny_patch16_224
"""
TORCHVISION, TIMM = _TORCHVISION.split(), _TIMM.split()


def archives(net: torch.nn.Module, example: torch.Tensor) -> Iterator[bytes]:
    """A network traced and scripted, each as it is and frozen; without what torch cannot make of it."""
    ways: tuple[Callable[[], Any], ...] = (
        partial(torch.jit.trace, net, example, check_trace=False),
        partial(torch.jit.script, net),
    )
    for way in ways:
        try:
            made = way()
        except Exception:  # a network that cannot be scripted: each says so in its own words
            continue
        for module in (made, torch.jit.freeze(made)):
            stream = io.BytesIO()
            torch.jit.save(module, stream)
            yield stream.getvalue()


def models(torchvision: Iterable[str], timm: Iterable[str]) -> Iterator[tuple[torch.nn.Module, torch.Tensor]]:
    """Untrained networks in eval mode with an image for each."""
    vision: Any = import_torchvision().models
    for name in torchvision:
        extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        size = 299 if name == "inception_v3" else 224
        yield vision.get_model(name, num_classes=10, **extra).eval(), torch.rand(1, 3, size, size)
    import timm as library

    for name in timm:
        net: Any = library.create_model(name, num_classes=10)
        yield net.eval(), torch.rand(1, *net.default_cfg.get("input_size", (3, 224, 224)))


def used(torchvision: Iterable[str] = (), timm: Iterable[str] = ()) -> set[str]:
    """Names of operators, built-in functions and types in the code of the named models."""
    found: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for net, example in models(torchvision, timm):
            for data in archives(net, example):
                found |= read_code(code_files(read_archive(data))).used.keys()
            print(type(net).__name__, len(found), file=sys.stderr)
    return found


def main() -> None:
    """Build, read and write."""
    import_torchvision()
    import timm
    import torchvision

    versions = {one.__name__: one.__version__.partition("+")[0] for one in (torch, torchvision, timm)}
    data = {"versions": versions, "used": sorted(used(TORCHVISION, TIMM))}
    PATH.write_text(json.dumps(data, indent=0) + "\n")


if __name__ == "__main__":
    main()
