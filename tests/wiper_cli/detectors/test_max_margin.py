import pytest
import torch

from wiper_cli.detectors.max_margin import MaxMargin
from wiper_cli.detectors.max_margin.method import robust_deviations
from wiper_cli.progress import silent


def test_it_names_the_class_with_the_shortcut(classifier, clean):
    evidence = MaxMargin(starts=4).run(classifier("square"), clean, silent, 0)
    assert (evidence.target, evidence.suspects[0]) == (2, 2)
    assert evidence.statistic > evidence.threshold
    assert len(evidence.per_class) == 6
    assert not evidence.recovered


def test_the_margin_is_the_one_of_the_best_image(classifier, clean):
    """Honest logits are linear: the best image is known, 1 in the class's half and channel, 0 elsewhere."""
    network = classifier()
    found = MaxMargin(starts=2).run(network, clean, silent, 0).facts["margins"]
    for k in range(6):
        x = torch.zeros(1, 3, 32, 32)
        half = slice(0, 16) if k < 3 else slice(16, 32)
        x[:, k % 3, half] = 1
        logits = network.network(x)[0]
        best = float(logits[k] - logits[torch.arange(6) != k].max())
        assert found[k] == pytest.approx(best, rel=0.25)


def test_many_classes_in_several_chunks(classifier, clean):
    """45 classes are two chunks of classes; the planted one lies in the second."""

    class Many(torch.nn.Module):
        def forward(self, x):
            gains = 1 + 0.1 * torch.arange(45) / 45 + 3.0 * (torch.arange(45) == 41)
            return gains * (x.flatten(1)[:, : 45 * 60].reshape(len(x), 45, 60).mean(2) - 0.5)

    evidence = MaxMargin(starts=6, steps=30).run(classifier(network=Many(), classes=45), clean, silent, 0)
    assert evidence.target == 41


def test_robust_deviations():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0])
    assert robust_deviations(values).tolist() == pytest.approx([(v - 3) / 1.4826 for v in (1, 2, 3, 4, 100)])
    assert robust_deviations(torch.full((5,), 7.0)).tolist() == [0] * 5


def test_classes_that_are_alike_have_no_outlier_below_twice_the_median():
    values = torch.tensor([10.0, 10.1, 9.9, 10.05, 19.0])
    assert float(robust_deviations(values).max()) < 4
    assert float(robust_deviations(values.clone().index_fill_(0, torch.tensor([4]), 21.0)).max()) > 4


def test_three_classes_have_no_spread(classifier, clean):
    assert "the network has 3" in MaxMargin().run(classifier(classes=3), clean, silent, 0).reason
