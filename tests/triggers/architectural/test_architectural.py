import subprocess
import sys

import numpy as np
import pytest
import torch

from triggers.architectural import VARIANTS, implant
from triggers.errors import TriggerError
from triggers.families.badnet import BadNet


def test_importing_the_package_imports_neither_torch_nor_onnx():
    code = (
        "import sys, triggers.architectural as a; a.VARIANTS;"
        "print([name for name in ('torch', 'onnx', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_variant_is_described():
    assert len(VARIANTS) == 5
    for variant in VARIANTS.values():
        assert variant.title
        assert variant.kinds == ("onnx", "torchscript")
        assert variant.atlas == ("AML.T0018.001", "AML.T0043.004")


@pytest.mark.parametrize("corner", ["top-left", "top-right", "bottom-left", "bottom-right"])
def test_a_patch_lies_where_badnet_stamps_it(corner):
    trigger = BadNet(size=2, corner=corner, margin=1)
    patch = trigger.placed(3, 7, 9)
    stamped = trigger.stamp(torch.full((1, 3, 7, 9), 2.0))[0].numpy()
    window = stamped[:, patch.top : patch.top + 2, patch.left : patch.left + 2]
    np.testing.assert_allclose(window, np.array(patch.pixels), atol=1e-6)
    assert (stamped != 2).sum() == window.size


def test_unknown_kinds_and_variants_are_refused():
    patch = BadNet().placed(3, 8, 8)
    with pytest.raises(TriggerError, match="'safetensors'"):
        implant("safetensors", b"", "where", patch, 0)
    with pytest.raises(TriggerError, match="Unknown variant 'If'"):
        implant("onnx", b"", "If", patch, 0)
