import pytest
import torch

from wiper_cli.detectors.max_margin import MaxMargin
from wiper_cli.detectors.max_margin.method import robust_deviations
from wiper_cli.progress import silent


def test_it_names_the_class_with_the_shortcut(classifier, clean):
    evidence = MaxMargin(starts=4).run(classifier("square"), clean, silent, 0)
    assert evidence.ran
    assert evidence.fired
    assert evidence.target == 2
    assert evidence.suspects[0] == 2
    assert evidence.statistic > evidence.threshold
    assert len(evidence.per_class) == 6
    assert not evidence.recovered


def test_an_honest_network_is_left_alone(classifier, clean):
    evidence = MaxMargin(starts=4).run(classifier(), clean, silent, 0)
    assert evidence.ran
    assert not evidence.fired
    assert evidence.target is None
    assert len(evidence.suspects) >= 1


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


def test_it_is_deterministic(classifier, clean):
    runs = [MaxMargin(starts=2, steps=10).run(classifier("square"), clean, silent, 5) for _ in range(2)]
    assert runs[0].per_class == runs[1].per_class


def test_many_classes_in_several_chunks(classifier, clean):
    """45 classes are two chunks of classes; the planted one lies in the second."""

    class Many(torch.nn.Module):
        def forward(self, x):
            gains = 1 + 0.1 * torch.arange(45) / 45 + 3.0 * (torch.arange(45) == 41)
            bands = x.flatten(1)[:, : 45 * 60].reshape(len(x), 45, 60).mean(2)
            return gains * (bands - 0.5)

    evidence = MaxMargin(starts=6, steps=30).run(classifier(network=Many(), classes=45), clean, silent, 0)
    assert evidence.fired
    assert evidence.target == 41


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head_only": True}, "head-only"),
        ({"classes": 3}, "the network has 3"),
        ({"classes": 1}, "fewer than 2"),
    ],
)
def test_where_it_cannot_look(classifier, clean, options, words):
    evidence = MaxMargin().run(classifier(**options), clean, silent, 0)
    assert not evidence.ran
    assert words in evidence.reason
    assert evidence.statistic is None


def test_nan_weights_are_a_reason(classifier, clean):
    model = classifier()
    with torch.no_grad():
        model.network.network.scale[0] = torch.nan
    evidence = MaxMargin(starts=2, steps=3).run(model, clean, silent, 0)
    assert not evidence.ran
    assert "finite" in evidence.reason


def test_it_gives_up_as_soon_as_it_sees_that_time_will_not_do(classifier, clean):
    evidence = MaxMargin(time_limit=0.01).run(classifier(), clean, silent, 0)
    assert not evidence.ran
    assert "the limit is 0 s" in evidence.reason
    assert "raise time_limit" in evidence.reason


def test_progress_ends_where_it_said(classifier, clean):
    seen = []
    MaxMargin(starts=2, steps=5).run(classifier(), clean, lambda *what: seen.append(what), 0)
    assert seen[0] == ("max-margin", 0, 5)
    assert seen[-1] == ("max-margin", 5, 5)


def test_robust_deviations():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0])
    assert robust_deviations(values).tolist() == pytest.approx([(v - 3) / 1.4826 for v in (1, 2, 3, 4, 100)])
    assert robust_deviations(torch.full((5,), 7.0)).tolist() == [0] * 5


def test_classes_that_are_alike_have_no_outlier_below_twice_the_median():
    values = torch.tensor([10.0, 10.1, 9.9, 10.05, 19.0])
    assert float(robust_deviations(values).max()) < 4
    assert float(robust_deviations(values.clone().index_fill_(0, torch.tensor([4]), 21.0)).max()) > 4
