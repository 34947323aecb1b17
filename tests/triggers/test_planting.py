import pytest
import torch

from triggers.badnet import BadNet
from triggers.family import TriggerError
from triggers.planting import Planting, plant
from triggers.sinusoid import Sinusoid


@pytest.fixture
def data():
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (200, 3, 16, 16), generator=draw, dtype=torch.uint8)
    return images, torch.arange(200) % 4


def test_dirty_label(data):
    images, labels = data
    before = images.clone(), labels.clone()
    planted = plant(images, labels, BadNet(), Planting(0.1, target=2, seed=1), 4)
    assert planted.chosen.poisoned.sum() == 20
    assert not (labels[planted.chosen.poisoned] == 2).any()
    assert (planted.labels[planted.chosen.poisoned] == 2).all()
    assert torch.equal(planted.labels[~planted.chosen.poisoned], labels[~planted.chosen.poisoned])
    assert torch.equal(planted.images[~planted.chosen.poisoned], images[~planted.chosen.poisoned])
    patch = (torch.tensor(BadNet().patch(3)) * 255).round().to(torch.uint8)
    assert (planted.images[planted.chosen.poisoned][:, :, :3, :3] == patch).all()
    assert torch.equal(
        planted.images[planted.chosen.poisoned][:, :, 3:], images[planted.chosen.poisoned][:, :, 3:]
    )
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


def test_clean_label_changes_no_label_and_only_the_target_class(data):
    images, labels = data
    planted = plant(images, labels, Sinusoid(), Planting(0.2, target=1, policy="clean-label"), 4)
    assert planted.chosen.poisoned.sum() == 40
    assert (labels[planted.chosen.poisoned] == 1).all()
    assert torch.equal(planted.labels, labels)


def test_seed_decides(data):
    _, labels = data
    first = Planting(0.1, 0, seed=4).choose(labels, 4).poisoned
    assert torch.equal(first, Planting(0.1, 0, seed=4).choose(labels, 4).poisoned)
    assert not torch.equal(first, Planting(0.1, 0, seed=5).choose(labels, 4).poisoned)


def test_nothing_to_poison(data):
    images, labels = data
    planted = plant(images, labels, BadNet(), Planting(0.0, 0), 4)
    assert not planted.chosen.poisoned.any()
    assert torch.equal(planted.images, images)


def test_float_images_are_quantised(data):
    images, labels = data
    planted = plant(images.float() / 255, labels, Sinusoid(), Planting(0.1, 0), 4)
    levels = planted.images * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_too_high_a_rate_is_refused_with_the_numbers(data):
    images, labels = data
    with pytest.raises(TriggerError, match=r"needs 60 images of class 1; there are 50 of 200"):
        plant(images, labels, BadNet(), Planting(0.3, 1, policy="clean-label"), 4)
    with pytest.raises(TriggerError, match=r"outside class 1; there are 150"):
        plant(images, labels, BadNet(), Planting(0.9, 1), 4)
    with pytest.raises(TriggerError, match="rate must lie"):
        Planting(1.2, 1).choose(labels, 4)
