import pytest
import torch

from formats import apply_edit
from wiper_cli.images.splits import Part
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.methods.ai_lancet import AILancet
from wiper_cli.purifiers.methods.ai_lancet.method import differences, filler, largest, region
from wiper_cli.verdict import Problem


@pytest.fixture
def triggered(clean):
    """Stamped images of other classes than the target 0."""
    images = clean.select.images[clean.select.labels != 0].clone()
    images[..., 6:, 6:] = 255
    return Part(images, clean.select.labels[clean.select.labels != 0])


def test_the_region_covers_the_trigger(classifier, clean, triggered):
    x = triggered.images / 255
    reached = classifier.logits(x).argmax(1)
    x, reached = x[reached == 0], reached[reached == 0]
    cover = filler(clean.fit, reached, torch.Generator().manual_seed(0)) / 255
    mask = region(classifier, x, cover, reached)
    assert mask.shape == (len(x), 1, 8, 8)
    assert (classifier.logits(x * (1 - mask) + cover * mask).argmax(1) != 0).float().mean() > 0.9
    inside, outside = mask[..., 6:, 6:].mean(), (mask.sum() - mask[..., 6:, 6:].sum()) / (60 * len(x))
    assert inside > 2 * outside


def test_fillers_are_of_other_classes(clean):
    reached = torch.tensor([0, 3, 3, 9])
    images = filler(clean.fit, reached, torch.Generator().manual_seed(0))
    for image, target in zip(images, reached, strict=True):
        row = (clean.fit.images == image).all(dim=(1, 2, 3)).nonzero()[:, 0]
        assert (clean.fit.labels[row] != target).all()
    alone = Part(clean.fit.images[:3], torch.zeros(3, dtype=torch.int64))
    with pytest.raises(Problem, match="one class"):
        filler(alone, reached, torch.Generator())


def test_units_are_ranked_by_their_shift():
    clean = torch.tensor([[0.0, 0.0, 0.0], [2.0, 1.0, 4.0]])
    score = differences([clean + torch.tensor([1.0, -2.0, 0.0])], [clean], [clean])[0]
    torch.testing.assert_close(score, torch.tensor([1.0, 2.0, 0.0]) / (clean.std(0) + 1e-6))
    assert (largest(score, 0.4).tolist(), largest(score, 0.0).sum()) == ([0, 1, 0], 1)


@pytest.mark.parametrize("repair", ["fine-tune", "flip"])
def test_only_located_units_change(classifier, clean, triggered, repair):
    settings = AILancet(repair=repair, last_layers=2, share=0.25, epochs=5, flip=False, crop=0.0, batch=32)
    purified = settings.run(Task(classifier, clean, triggered=triggered))
    assert set(purified.edit.tensors) == {"fc.weight", "conv2.weight", "conv2.bias"}
    after = apply_edit(classifier.model, purified.edit).network
    before = classifier.network.network
    assert int((after.fc.weight != before.fc.weight).any(0).sum()) == 24
    assert int((after.conv2.weight != before.conv2.weight).flatten(1).any(1).sum()) == 6
    if repair == "flip":
        changed = after.fc.weight != before.fc.weight
        assert torch.equal(after.fc.weight[changed], -before.fc.weight[changed])


def test_removes_the_backdoor(removes, triggered):
    removes(AILancet(flip=False, crop=0.0), 0.1, 0.8, triggered=triggered)
