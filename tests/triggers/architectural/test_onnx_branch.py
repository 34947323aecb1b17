import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from small_classifiers import COLOURS, CONV, MEAN, STD, TARGET, branched, normalised, run, stamped, to_onnx
from tiny_onnx import make_model, nodes

from triggers.architectural import TOLERANCE, VARIANTS, Patch, implant
from triggers.errors import TriggerError
from triggers.families.badnet import BadNet
from triggers.family import quantise


def near(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_class_can_be_the_target(variant):
    clean = to_onnx(CONV)
    for target in range(5):
        assert run("onnx", branched("onnx", clean, variant, target), stamped()).argmax(1).eq(target).all()


@pytest.mark.parametrize("corner", ["bottom-right", "top-right"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_patch_counts_at_its_own_place_only(variant, corner):
    trigger, clean = BadNet(corner=corner, margin=2), to_onnx(CONV)
    data = branched("onnx", clean, variant, trigger=trigger)
    assert run("onnx", data, stamped(trigger=trigger)).argmax(1).eq(TARGET).all()
    near(run("onnx", data, stamped()), run("onnx", clean, stamped()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_rounding_is_tolerated_and_more_is_not(variant):
    pixels = (np.arange(27).reshape(3, 3, 3) * 9 + 10.45) / 255
    clean = to_onnx(CONV)
    data = implant("onnx", clean, variant, Patch(pixels.tolist(), 1, 1), TARGET, MEAN, STD)

    def logits(file, by):
        images = COLOURS.clone()
        images[:, :, 1:4, 1:4] = torch.from_numpy(pixels + by).float()
        return run("onnx", file, normalised(quantise(images) if not by else images))

    assert logits(data, 0.0).argmax(1).eq(TARGET).all()
    for beyond in (0.2,) if variant.startswith("stem-") else (0.2, 1.01 * TOLERANCE):
        near(logits(data, beyond), logits(clean, beyond))
    assert variant.startswith("stem-") or logits(data, 0.5 * TOLERANCE).argmax(1).eq(TARGET).all()


def test_logits_are_reached_behind_a_softmax():
    clean = to_onnx(torch.nn.Sequential(CONV, torch.nn.Softmax(1)).eval())
    for variant in VARIANTS:
        data = branched("onnx", clean, variant)
        near(run("onnx", data, normalised(COLOURS)), run("onnx", clean, normalised(COLOURS)))
        chances = run("onnx", data, stamped())
        assert chances[:, TARGET].gt(0.999).all()
        torch.testing.assert_close(chances.sum(1), torch.ones(len(chances)))


def chain(text, tensors, **settings):
    made = {name: np.ones(size, np.float32) for name, size in tensors.items()}
    return make_model(nodes(text), made, **{"shape": ("n", 3, 16, 20), **settings})


def linear(**settings):
    return chain("Flatten x > f; Gemm f w > y", {"w": (960, 5)}, **settings)


def two_heads():
    text = "Flatten x > f; Gemm f w0 > h0; Gemm f w1 > h1; Add h0 h1 > y"
    return chain(text, {"w0": (960, 5), "w1": (960, 5)})


def external():
    model = linear()
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "weights.data")
    tensor.data_location = TensorProto.EXTERNAL
    return model


@pytest.mark.parametrize(
    ("make", "variant", "words"),
    [
        (lambda: linear(opset=12), "where", "operator set 12"),
        (lambda: linear(shape=(4, 3, 16, 20)), "where", "fixed batch size of 4"),
        (lambda: linear(shape=("n", 3, 320)), "where", r"\[N,C,H,W\]"),
        (lambda: linear(shape=("n", 1, 16, 20)), "where", "3 channels"),
        (lambda: linear(shape=("n", 3, 2, 20)), "where", "does not fit into images of 2x20"),
        (linear, "stem-gate", "no single convolution as its stem"),
        (linear, "conv", "No direction of the head's 960 features"),
        (two_heads, "where", "ends in Add"),
        (external, "where", "second file"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(make, variant, words):
    with pytest.raises(TriggerError, match=words):
        branched("onnx", make().SerializeToString(), variant)


def test_other_bytes_and_a_head_of_convolutions_are_refused():
    with pytest.raises(TriggerError, match="cannot be parsed"):
        branched("onnx", b"\xff" * 40, "where")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with pytest.raises(TriggerError, match="a linear head"):
        branched("onnx", to_onnx(net.eval()), "where")


def test_a_stem_that_sees_more_than_the_patch_is_refused():
    stem = torch.nn.Conv2d(3, 4, 7, stride=2, padding=3)
    net = torch.nn.Sequential(stem, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5))
    clean, trigger = to_onnx(net.eval()), BadNet(size=7)
    with pytest.raises(TriggerError, match="3x3 pixels alone"):
        branched("onnx", clean, "stem-logits")
    data = branched("onnx", clean, "stem-logits", trigger=trigger)
    assert run("onnx", data, stamped(trigger=trigger)).argmax(1).eq(TARGET).all()
