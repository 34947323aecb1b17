import pytest
import torch

from formats import apply_edit, open_model, read_source
from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Clean, Part
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.methods.prune import Prune
from wiper_cli.salience.stream import measure
from wiper_cli.verdict import Problem


def edited(classifier, purified):
    return Classifier(apply_edit(classifier.model, purified.edit), classifier.mean, classifier.std)


def test_the_least_salient_columns_become_zero(classifier, clean):
    purified = Prune(share=0.25).run(Task(classifier, clean))
    weight, bias = edited(classifier, purified).head()
    before, bias_before = classifier.head()
    gone = measure(classifier, clean.fit).bs.topk(24, largest=False).indices
    expected = before.clone()
    expected[:, gone] = 0
    assert torch.equal(weight, expected)
    assert torch.equal(bias, bias_before)
    assert set(purified.edit.tensors) == {"fc.weight"}


def test_a_mean_keeps_the_mean_logits(classifier, clean):
    purified = Prune(share=0.25, ablation="mean").run(Task(classifier, clean))
    before, after = (c.logits(clean.fit.images).mean(0) for c in (classifier, edited(classifier, purified)))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ablation", ["zero", "mean"])
@pytest.mark.parametrize("metric", ["bs", "am"])
def test_channels_become_constant(classifier, clean, ablation, metric):
    settings = Prune(share=0.25, last_layers=3, metric=metric, ablation=ablation)
    purified = settings.run(Task(classifier, clean))
    network, after = classifier.network.network, edited(classifier, purified).network.network
    x = (clean.fit.images / 255 - 0.5) / 0.25
    before, maps = (n.norm(n.conv1(x)) for n in (network, after))
    gone = (maps.std((0, 2, 3)) == 0).nonzero()[:, 0]
    assert len(gone) == 3
    expected = before.mean((0, 2, 3))[gone] if ablation == "mean" else torch.zeros(3)
    torch.testing.assert_close(maps[0, gone, 0, 0], expected, rtol=1e-4, atol=1e-5)
    assert (after.conv2.weight.abs().sum((1, 2, 3)) == 0).sum() == 6
    assert set(purified.edit.tensors) >= {
        "norm.weight", "norm.bias", "conv2.weight", "conv2.bias", "fc.weight",
    }  # fmt: skip
    assert "conv1.weight" not in purified.edit.tensors


def test_channels_take_two_metrics_only(classifier, clean):
    assert Prune(metric="gradient").run(Task(classifier, clean)).edit
    with pytest.raises(Problem, match="ranks units of the head only"):
        Prune(metric="gradient", last_layers=2).run(Task(classifier, clean))


def test_a_quantised_file_loses_units_of_its_head(quantised_file):
    classifier = Classifier(open_model(read_source(quantised_file)), (0.5,), (0.25,))
    images = torch.randint(
        256, (20, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    part = Part(images, torch.arange(20) % 10)
    purified = Prune(share=0.25, metric="am").run(Task(classifier, Clean(part, part, part)))
    assert (edited(classifier, purified).head()[0] == 0).all(0).sum() == 12
    with pytest.raises(Problem, match="opened head-only"):
        Prune(last_layers=2).run(Task(classifier, Clean(part, part, part)))


def test_removes_the_backdoor(removes):
    removes(Prune(share=0.3, metric="am"), 0.5, 0.9)
