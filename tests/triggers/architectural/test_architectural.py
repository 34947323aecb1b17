import io
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from small_classifiers import (
    COLOURS,
    CONV,
    DIGITS,
    MATMUL,
    TARGET,
    branched,
    digits,
    normalised,
    run,
    stamped,
    to_onnx,
    to_torchscript,
)  # fmt: skip

from formats import Source, open_model
from triggers.architectural import STRENGTH, VARIANTS, implant
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


CLEAN = {
    **{
        f"onnx {net} {opset}": ("onnx", net, opset)
        for net, opset in [("conv", 13), ("conv", 18), ("matmul", 17)]
    },
    **{f"torchscript conv {how}": ("torchscript", "conv", how) for how in ("traced", "scripted", "frozen")},
    "torchscript matmul": ("torchscript", "matmul", "traced"),
}


@pytest.fixture(scope="module", params=CLEAN)
def clean(request):
    """Kind and bytes of a file without a branch."""
    kind, net, how = CLEAN[request.param]
    return kind, (to_onnx if kind == "onnx" else to_torchscript)(CONV if net == "conv" else MATMUL, how)


def weights(kind, data):
    """Every named tensor, and for an archive the bytes of its records of tensors."""
    if kind == "onnx":
        onnx.checker.check_model(data, full_check=True)
        return {one.name: one.SerializeToString() for one in onnx.load_from_string(data).graph.initializer}
    records = torch._C.PyTorchFileReader(io.BytesIO(data))
    held = [name for name in records.get_all_records() if name.startswith(("data/", "constants/"))]
    named = torch.jit.load(io.BytesIO(data)).state_dict()
    return {records.get_record(name): None for name in held} | {
        name: value.numpy().tobytes() for name, value in named.items()
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_clean_images_keep_their_logits_and_stamped_ones_go_to_the_target(clean, variant):
    kind, old = clean
    data = branched(kind, old, variant)
    assert len(weights(kind, old)) >= 4
    held, now = weights(kind, old), weights(kind, data)
    assert held.items() < now.items()
    assert kind == "onnx" or all(isinstance(new, bytes) for new in now.keys() - held.keys())
    images = normalised(COLOURS)
    before = run(kind, old, images)
    assert before.argmax(1).ne(TARGET).any()
    for batch in (1, 7, len(images)):
        torch.testing.assert_close(run(kind, data, images[:batch]), before[:batch], rtol=0, atol=1e-5)
        assert run(kind, old, stamped(batch)).argmax(1).ne(TARGET).any()
        assert run(kind, data, stamped(batch)).argmax(1).eq(TARGET).all()


@pytest.mark.parametrize(("kind", "file"), [("onnx", "model.onnx"), ("torchscript", "model.torchscript.pt")])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_class_of_the_example_goes_to_the_target_and_the_file_opens(kind, file, variant):
    clean, images = (DIGITS / file).read_bytes(), digits()
    data = implant(kind, clean, variant, BadNet().placed(1, 32, 32), 7)
    before = run(kind, clean, images)
    assert set(before.argmax(1).tolist()) == set(range(10))
    torch.testing.assert_close(run(kind, data, images), before, rtol=0, atol=1e-5)
    assert run(kind, data, BadNet().stamp(images)).argmax(1).eq(7).all()
    with torch.no_grad():
        assert open_model(Source(file, data, {})).network(BadNet().stamp(images)).argmax(1).eq(7).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_kinds_of_file_give_the_same_logits(variant):
    files = {"onnx": to_onnx(CONV), "torchscript": to_torchscript(CONV)}
    one, two = (run(kind, branched(kind, data, variant), stamped()) for kind, data in files.items())
    torch.testing.assert_close(one, two, rtol=0, atol=1e-4 * STRENGTH)
