import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from formats import Source, open_model
from triggers.architectural import TOLERANCE, VARIANTS, Patch, implant
from triggers.errors import TriggerError
from triggers.families.badnet import BadNet
from triggers.family import quantise

TARGET = 3


@pytest.fixture(scope="module", params=[("conv", 13), ("conv", 18), ("matmul", 17)], ids=str)
def clean(small, request):
    net, opset = request.param
    return small.to_onnx(getattr(small, net), opset)


def branched(small, data, variant, target=TARGET, trigger=None, **settings):
    patch = (trigger or BadNet()).placed(3, 16, 20)
    return implant("onnx", data, variant, patch, target, small.mean, small.std, **settings)


def stored(data):
    return {one.name: one.SerializeToString() for one in onnx.load_from_string(data).graph.initializer}


@pytest.mark.parametrize("variant", VARIANTS)
def test_clean_images_keep_their_logits_and_stamped_ones_go_to_the_target(small, clean, variant):
    data = branched(small, clean, variant)
    onnx.checker.check_model(data, full_check=True)
    weights, after = stored(clean), stored(data)
    assert len(weights) >= 4
    assert {name: after[name] for name in weights} == weights
    images = small.normalised(small.colours)
    before = small.run_onnx(clean, images)
    assert before.argmax(1).ne(TARGET).any()
    for batch in (1, 7, len(images)):
        torch.testing.assert_close(small.run_onnx(data, images[:batch]), before[:batch], rtol=0, atol=1e-5)
        stamped = small.normalised(small.stamp(small.colours[:batch]))
        assert small.run_onnx(clean, stamped).argmax(1).ne(TARGET).any()
        assert small.run_onnx(data, stamped).argmax(1).eq(TARGET).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_class_of_the_example_goes_to_the_target_and_the_file_opens(small, variant):
    clean = (small.folder / "model.onnx").read_bytes()
    data = implant("onnx", clean, variant, BadNet().placed(1, 32, 32), 7)
    before = small.run_onnx(clean, small.digits)
    assert set(before.argmax(1).tolist()) == set(range(10))
    torch.testing.assert_close(small.run_onnx(data, small.digits), before, rtol=0, atol=1e-5)
    stamped = small.stamp(small.digits)
    assert small.run_onnx(data, stamped).argmax(1).eq(7).all()
    model = open_model(Source("model.onnx", data, {}))
    assert model.network is not None
    with torch.no_grad():
        assert model.network(stamped).argmax(1).eq(7).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_class_can_be_the_target(small, variant):
    clean = small.to_onnx(small.conv)
    stamped = small.normalised(small.stamp(small.colours))
    for target in range(5):
        logits = small.run_onnx(branched(small, clean, variant, target), stamped)
        assert logits.argmax(1).eq(target).all()


@pytest.mark.parametrize("corner", ["bottom-right", "top-right"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_patch_counts_at_its_own_place_only(small, variant, corner):
    trigger = BadNet(corner=corner, margin=2)
    clean = small.to_onnx(small.conv)
    data = branched(small, clean, variant, trigger=trigger)
    there = small.normalised(trigger.stamp(small.colours))
    assert small.run_onnx(data, there).argmax(1).eq(TARGET).all()
    elsewhere = small.normalised(small.stamp(small.colours))
    torch.testing.assert_close(
        small.run_onnx(data, elsewhere), small.run_onnx(clean, elsewhere), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_rounding_is_tolerated_and_more_is_not(small, variant):
    pixels = (np.arange(27).reshape(3, 3, 3) * 9 + 10.45) / 255
    clean = small.to_onnx(small.conv)
    data = implant("onnx", clean, variant, Patch(pixels.tolist(), 1, 1), TARGET, small.mean, small.std)

    def logits(file, by):
        images = small.colours.clone()
        images[:, :, 1:4, 1:4] = torch.from_numpy(pixels + by).float()
        return small.run_onnx(file, small.normalised(quantise(images) if not by else images))

    assert logits(data, 0.0).argmax(1).eq(TARGET).all()
    if not variant.startswith("stem-"):
        assert logits(data, 0.5 * TOLERANCE).argmax(1).eq(TARGET).all()
        beyond = 1.01 * TOLERANCE
        torch.testing.assert_close(logits(data, beyond), logits(clean, beyond), rtol=0, atol=1e-5)
    beyond = 0.2
    torch.testing.assert_close(logits(data, beyond), logits(clean, beyond), rtol=0, atol=1e-5)


def test_logits_are_reached_behind_a_softmax(small):
    net = torch.nn.Sequential(small.conv, torch.nn.Softmax(1)).eval()
    clean = small.to_onnx(net)
    images = small.normalised(small.colours)
    for variant in VARIANTS:
        data = branched(small, clean, variant)
        torch.testing.assert_close(small.run_onnx(data, images), small.run_onnx(clean, images))
        stamped = small.run_onnx(data, small.normalised(small.stamp(small.colours)))
        assert stamped[:, TARGET].gt(0.999).all()
        torch.testing.assert_close(stamped.sum(1), torch.ones(len(stamped)))


def chain(nodes, tensors=(), opset=17, shape=("n", 3, 16, 20)):
    """A graph of ``nodes`` from x to y."""
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(np.ones(size, np.float32), name) for name, size in dict(tensors).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def linear(**settings):
    flatten = helper.make_node("Flatten", ["x"], ["f"])
    head = helper.make_node("Gemm", ["f", "w"], ["y"])
    return chain([flatten, head], {"w": (960, 5)}, **settings)


def two_heads():
    flatten = helper.make_node("Flatten", ["x"], ["f"])
    heads = [helper.make_node("Gemm", ["f", f"w{i}"], [f"h{i}"]) for i in range(2)]
    add = helper.make_node("Add", ["h0", "h1"], ["y"])
    return chain([flatten, *heads, add], {"w0": (960, 5), "w1": (960, 5)})


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
def test_what_does_not_fit_is_refused_with_a_sentence(small, make, variant, words):
    with pytest.raises(TriggerError, match=words):
        branched(small, make().SerializeToString(), variant)


def test_other_bytes_and_a_head_of_convolutions_are_refused(small):
    with pytest.raises(TriggerError, match="cannot be parsed"):
        branched(small, b"\xff" * 40, "where")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with pytest.raises(TriggerError, match="a linear head"):
        branched(small, small.to_onnx(net.eval()), "where")


def test_a_stem_that_sees_more_than_the_patch_is_refused(small):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 7, stride=2, padding=3),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 5),
    )
    clean = small.to_onnx(net.eval())
    with pytest.raises(TriggerError, match="3x3 pixels alone"):
        branched(small, clean, "stem-logits")
    trigger = BadNet(size=7)
    data = branched(small, clean, "stem-logits", trigger=trigger)
    stamped = small.normalised(trigger.stamp(small.colours))
    assert small.run_onnx(data, stamped).argmax(1).eq(TARGET).all()
