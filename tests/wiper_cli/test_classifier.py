"""A model with its preprocessing: one network, or a foreign runtime."""

import numpy as np
import pytest
import torch

from formats import open_model, read_source
from wiper_cli.classifier import Classifier, PixelNetwork
from wiper_cli.commands.shared.example_files import example_folder

MEAN, STD = (0.3,), (0.5,)


@pytest.fixture
def classifier():
    return Classifier(open_model(read_source(example_folder() / "model.safetensors")), MEAN, STD)


@pytest.fixture
def headless(quantised_file):
    return Classifier(open_model(read_source(quantised_file)), MEAN, STD)


@pytest.fixture
def images():
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (7, 1, 32, 32), generator=draw, dtype=torch.uint8)


def test_the_network_sees_normalised_images(classifier, images):
    with torch.no_grad():
        expected = classifier.model.network((images / 255 - 0.3) / 0.5)
    torch.testing.assert_close(classifier.logits(images), expected, rtol=1e-5, atol=1e-5)
    assert classifier.classes == expected.shape[1] == 10


@pytest.mark.parametrize("kind", ["classifier", "headless"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bytes_and_numbers_agree(kind, dtype, images, request):
    one = request.getfixturevalue(kind)
    numbers = images.to(dtype) / 255
    torch.testing.assert_close(one.logits(images), one.logits(numbers), rtol=1e-5, atol=1e-5)
    assert one.as_float(numbers).dtype == one.as_float(images).dtype == torch.float32
    assert float(one.as_float(images).max()) <= 1


@pytest.mark.parametrize("kind", ["classifier", "headless"])
def test_batches_do_not_matter_and_features_lead_to_the_logits(kind, images, request):
    one = request.getfixturevalue(kind)
    features, logits = one.features(images, batch=3)
    torch.testing.assert_close(logits, one.logits(images, batch=5), rtol=1e-4, atol=1e-4)
    weight, bias = one.head()
    assert features.shape == (7, weight.shape[1])
    torch.testing.assert_close(features @ weight.T + bias, logits, rtol=1e-3, atol=1e-3)
    assert not features.requires_grad
    assert not logits.requires_grad


def test_a_copy_is_independent(classifier, images):
    before = classifier.logits(images)
    copy = classifier.copy()
    torch.testing.assert_close(copy.logits(images), before, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in copy.network.parameters():
            parameter.add_(1)
        for buffer in copy.network.buffers():
            buffer.add_(1)
    torch.testing.assert_close(classifier.logits(images), before, rtol=0, atol=0)
    assert not torch.equal(copy.logits(images), before)
    assert copy.network.network is not classifier.model.network


def test_nothing_is_trainable_until_asked(classifier, images):
    assert not any(parameter.requires_grad for parameter in classifier.network.parameters())
    assert not classifier.network.training
    weight = classifier.model.named()[classifier.model.head.weight]
    with classifier.tap() as tap:
        assert weight.requires_grad
        x = (images / 255).requires_grad_(True)
        _, logits = tap(x)
        logits.sum().backward()
        assert x.grad.abs().sum() > 0
    assert not weight.requires_grad


def test_a_head_only_model_answers_through_its_runtime(headless, images, quantised_file):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(quantised_file), providers=["CPUExecutionProvider"])
    served = session.run(None, {"image": ((images.numpy() / 255 - 0.3) / 0.5).astype(np.float32)})[0]
    np.testing.assert_allclose(headless.logits(images).numpy(), served, rtol=1e-3, atol=1e-3)
    assert headless.network is None
    with headless.tap() as tap:
        assert tap is None
    with pytest.raises(ValueError, match="head-only"):
        headless.copy()


def test_no_tap_without_a_head(classifier):
    classifier.model.head = None
    with pytest.raises(ValueError, match="no linear head"), classifier.tap():
        pass


def test_another_model_is_asked_as_many_images_at_once(classifier):
    classifier.batch = 12
    assert classifier.with_model(classifier.model).batch == 12


class Recording(torch.nn.Module):
    """Remembers how many images it saw, and whether channels came last."""

    def __init__(self, channels=16, kernel=3, flat=False):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, channels, 3, 4)
        self.head = torch.nn.Conv2d(channels, 5, kernel)
        self.flat, self.seen, self.last = flat, 0, []

    def forward(self, x):
        self.seen += len(x)
        self.last.append(x.is_contiguous(memory_format=torch.channels_last))
        x = self.head(self.conv(x))
        return x.view(len(x), -1).unflatten(1, (5, -1)).mean(2) if self.flat else x.mean((2, 3))


def of(network):
    """A classifier of colour images around ``network``."""
    model = open_model(read_source(example_folder() / "model.safetensors"))
    found = Classifier(model, (0.5,), (0.5,))
    found.network = PixelNetwork(network.eval(), torch.full((3,), 0.5), torch.full((3,), 0.5))
    return found


def test_an_image_is_asked_about_once(images):
    images = images.expand(-1, 3, -1, -1).contiguous()
    network = Recording()
    classifier = of(network)
    first = classifier.own(images, torch.tensor([4, 1, 2]))
    again = classifier.own(images, torch.tensor([2, 0, 4, 1]))
    assert network.seen == 4
    assert torch.equal(torch.cat([first, again]), classifier.answers(images)[[4, 1, 2, 2, 0, 4, 1]])
    classifier.own(images.clone(), torch.tensor([0]))
    assert network.seen == 4 + len(images) + 1  # another tensor holds other images


def test_what_is_not_finite_has_no_class(images):
    network = Recording()
    torch.nn.init.constant_(network.head.bias, torch.nan)
    classifier = of(network)
    assert classifier.own(images.expand(-1, 3, -1, -1), torch.tensor([3])).tolist() == [-1]


@pytest.mark.parametrize(
    ("network", "side", "last"),
    [
        (Recording(), 96, True),
        (Recording(), 95, False),
        (Recording(flat=True), 96, False),  # its view fails so
        (Recording(8, 1), 96, False),  # narrow
    ],
    ids=["large", "small", "view", "narrow"],
)
def test_large_images_come_channels_last_where_the_network_takes_it(network, side, last):
    classifier = of(network)
    images = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)
    before = classifier.logits(images)
    classifier.lay_out(images)
    after = classifier.logits(images)
    assert network.last[-1] == last
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    copy = classifier.copy()
    assert copy.network.layout == classifier.network.layout


class InLow(Recording):
    """As deep as a residual network's kernels, but for what it does in bfloat16."""

    def __init__(self, otherwise=None, **kernels):
        super().__init__(**kernels)
        self.otherwise, self.types = otherwise, []

    def forward(self, x):
        x = self.head(self.conv(x))
        self.types.append(x.dtype)
        if self.otherwise is not None and x.dtype == torch.bfloat16:
            x = self.otherwise(x)
        return x.mean((2, 3))


def failing(x):
    raise RuntimeError("types that do not go together")


@pytest.mark.parametrize(
    ("network", "low"),
    [
        (InLow(), (True, True)),
        (InLow(torch.neg), (False, False)),
        (InLow(failing), (False, False)),
        (InLow(channels=8), (True, False)),  # as the kernels of a depthwise one
    ],
    ids=["alike", "otherwise", "failing", "thin"],
)
def test_a_search_is_in_bfloat16_where_the_network_answers_alike(network, low, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    classifier = of(network)
    images = torch.randint(
        0, 256, (16, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    before = classifier.logits(images)
    assert classifier.lower(images) == low[0]
    assert classifier.network.low == low
    network.types.clear()
    exact, rough = classifier.logits(images), classifier.logits(images, rough=True)
    slopes = classifier.rough(classifier.as_float(images[:2]).requires_grad_(True))
    assert slopes.dtype == rough.dtype == exact.dtype == torch.float32
    types = [torch.bfloat16 if one else torch.float32 for one in low]
    assert network.types == [torch.float32, *types]
    torch.testing.assert_close(exact, before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.02)
    assert classifier.copy().network.low == low
    assert not classifier.lower(images, wanted=False)
    assert torch.equal(classifier.logits(images, rough=True), exact)


@pytest.mark.parametrize(("side", "can"), [(95, True), (96, False)], ids=["small", "processor"])
def test_else_it_is_in_float32(side, can, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: can)
    classifier = of(InLow())
    images = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)
    assert not classifier.lower(images)
    assert classifier.network.low == (False, False)
    assert torch.equal(classifier.logits(images, rough=True), classifier.logits(images))


@pytest.mark.parametrize(
    ("side", "count", "asked"), [(32, 520, [256, 256, 8]), (224, 23, [10, 10, 3]), (1024, 2, [1, 1])]
)
def test_a_cpu_is_asked_about_large_images_in_small_parts(classifier, side, count, asked):
    seen = []

    class Counted(torch.nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return x.mean((2, 3)).repeat(1, 10)

    one = Classifier(
        classifier.model, MEAN, STD, network=PixelNetwork(Counted(), torch.tensor(MEAN), torch.tensor(STD))
    )
    logits = one.logits(torch.zeros((count, 1, side, side), dtype=torch.uint8))
    assert (seen, len(logits)) == (asked, count)
