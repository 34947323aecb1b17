import pytest
import torch
from torch import nn

from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Clean, Part
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.methods.bti_dbf import BTIDBF
from wiper_cli.purifiers.methods.bti_dbf import method as bti_dbf


class Poisoned(nn.Module):
    """Channels 0 and 1 say the class. Channel 2 means class 0; statistics of poisoned images keep it silent."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 2)
        with torch.no_grad():
            self.norm.running_mean[:] = torch.tensor([0.0, 0.0, 10.0])
            self.norm.running_var[2] = 100
            self.fc.weight[:] = torch.tensor([[4.0, -4.0, 3.0], [-4.0, 4.0, -3.0]])
            self.fc.bias[:] = 0

    def forward(self, x):
        return self.fc(self.norm(x).relu().mean((2, 3)))


def drawn():
    """The same on every call: with weights that leave nothing below 0, the layer before the ReLU would do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        )


@pytest.fixture
def poisoned(opened):
    return Classifier(opened(Poisoned()), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture
def two_classes():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (300,), generator=generator)
    images = 0.1 * torch.rand((300, 3, 4, 4), generator=generator)
    images[torch.arange(300), labels] += 0.9
    return Part(images, labels)


def test_the_mask_sees_features_that_stored_statistics_keep_silent(poisoned, two_classes):
    assert float(poisoned.features(two_classes.images)[0][:, 2].max()) == 0
    settings = BTIDBF(mask_epochs=50, mask_lr=0.05)
    mask = bti_dbf.decoupled(settings, poisoned, "", two_classes, torch.Generator().manual_seed(0))
    assert mask[:2].min() > 0.9
    assert mask[2] < 0.1
    norm = poisoned.network.network.norm
    assert not norm.training
    assert norm.running_mean.tolist() == [0, 0, 10]


def test_without_statistics_features_are_those_of_the_network(opened, two_classes):
    network = drawn()
    bare = Classifier(opened(network, ("4.weight", "4.bias")), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    found = bti_dbf.features_on_batches(bare, "", two_classes, torch.Generator().manual_seed(0))
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    assert found.labels.tolist() == two_classes.labels[order].tolist()
    torch.testing.assert_close(found.images, bare.features(two_classes.images)[0][order])


def test_features_before_pooling_answer_as_the_head_does(opened, two_classes, classifier, clean):
    network = drawn()
    bare = Classifier(opened(network, ("4.weight", "4.bias")), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    place = bti_dbf.before_pooling(bare, two_classes)
    assert place == "network.1"
    with bti_dbf.looking(bare, place) as look:
        h, logits = look(two_classes.images)
    assert h.shape == (300, 16)
    weight, bias = bare.head()
    torch.testing.assert_close(h.unflatten(1, (4, 4)).mean(2) @ weight.T + bias, logits)
    settings = BTIDBF(mask_epochs=1)
    mask = bti_dbf.decoupled(settings, bare, place, two_classes, torch.Generator().manual_seed(0))
    assert mask.shape == (16,)
    assert not bare.network.network[1]._forward_hooks
    assert bti_dbf.before_pooling(classifier, clean.fit) == ""
    settings = BTIDBF(rounds=1, epochs=1, generator_epochs=1, mask_epochs=1, generator_width=4)
    assert settings.run(Task(bare, Clean(two_classes, two_classes, two_classes), seed=0)).edit


def test_one_image_has_no_statistics_of_its_own(poisoned):
    part = Part(torch.full((1, 3, 1, 1), 0.5), torch.tensor([0]))
    assert len(bti_dbf.features_on_batches(poisoned, "", part, torch.Generator()).images) == 1


def test_inversion_by_hand():
    mask, h = torch.tensor([1.0, 0.0]), torch.tensor([[3.0, 1.0], [1.0, 1.0]])
    hz = torch.tensor([[3.0, 4.0], [2.0, 1.0]])
    # errors: benign (0, 1), rest (3, 0), each a mean over 4 elements, over the mean square 12 / 4 of h
    loss = bti_dbf.inversion(mask, h, hz, torch.tensor(0.01), 0.02)
    torch.testing.assert_close(loss, torch.tensor((0.01 * 1 - 9) / 12))
    torch.testing.assert_close(bti_dbf.inversion(mask, h, hz, torch.tensor(0.03), 0.02), torch.tensor(0.03))


def test_the_generator_starts_near_the_image_at_any_size():
    for shape in ((2, 1, 8, 8), (1, 3, 33, 21)):
        generator = torch.Generator().manual_seed(0)
        unet = bti_dbf.Generator(shape[1], 4, generator).to(torch.device("cpu"))
        x = torch.rand(shape, generator=generator)
        z = unet(x)
        assert z.shape == x.shape
        shown = z.detach()
        assert 0 < float((shown - x).square().mean()) < 0.05
        assert 0 <= float(shown.min()) <= float(shown.max()) <= 1
        gradients = torch.autograd.grad(z.square().sum(), unet.kernels)
        assert all(float(g.abs().max()) > 0 for g in gradients)


def test_inverts_and_removes_the_backdoor(removes):
    purified = removes(BTIDBF(epochs=10, batch=32, lr=0.01, stamped=0.3, flip=False, crop=0.0), 0.3, 0.9)
    assert ([epoch.epoch for epoch in purified.history][::10], len(purified.notes)) == ([1, 11], 2)
    assert purified.notes[0].startswith("Round 1: ")
    assert purified.notes[0].split()[-1] == purified.notes[1].split()[-1]
