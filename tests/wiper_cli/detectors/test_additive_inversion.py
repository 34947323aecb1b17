import pytest
import torch

from wiper_cli.detectors.additive_inversion import AdditiveInversion
from wiper_cli.detectors.common import ahead
from wiper_cli.detectors.effort import Extent
from wiper_cli.perturbations import stamp
from wiper_cli.progress import silent


class Scaled(torch.nn.Module):
    """A network whose answers are those of the inner one to images of half the side."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        scale = x.shape[-1] // 32
        return self.inner(torch.nn.functional.avg_pool2d(x, scale) if scale > 1 else x)


class Fragile(torch.nn.Module):
    """Answers whichever class a faint pattern of its own calls for, and for each class there is one."""

    def __init__(self, gain):
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.gain, self.keys = gain, torch.randn((6, 3, 32, 32), generator=draw).sign()

    def forward(self, x):
        grey = 2000 * (x[:, :, :16].mean((1, 2, 3)) - x[:, :, 16:].mean((1, 2, 3)))
        return (
            self.gain * torch.einsum("nchw,kchw->nk", x, self.keys) / 3072 + grey[:, None] * torch.eye(6)[0]
        )


@pytest.mark.parametrize("effort", ["quick", "normal", "thorough"])
def test_it_finds_the_pattern_and_names_the_class(classifier, clean, effort):
    model, extent = classifier("pattern"), Extent(6, 3, 32, 32, len(clean.fit), len(clean.select))
    evidence = AdditiveInversion.at(effort, extent).run(model, clean, silent, 0)
    assert (evidence.fired, evidence.target, evidence.suspects) == (True, 2, [2])
    assert evidence.statistic == ahead(evidence.facts["success"], evidence.facts["next_success"])
    (found,) = evidence.recovered
    assert float(found.parameters["pattern"].abs().max()) <= 10 / 255 * evidence.facts["amplitude"] + 1e-6
    others = clean.select.images[model.answers(clean.select.images) != 2]
    after = model.logits(stamp(found, others.float() / 255)).argmax(1)
    assert float((after == 2).float().mean()) == pytest.approx(found.facts["success"])
    assert len(others) == found.facts["images"]


@pytest.mark.parametrize("shortcut", [None, "square"])
def test_other_networks_are_not_accused(classifier, clean, shortcut):
    evidence = AdditiveInversion().run(classifier(shortcut), clean, silent, 0)
    assert (evidence.fired, evidence.recovered) == (False, [])


def test_where_every_class_gives_way_nothing_is_told(classifier, clean):
    """At the full bound any class can be had; whoever is first by a few images is no target."""
    evidence = AdditiveInversion().run(classifier(network=Fragile(1e5)), clean, silent, 0)
    assert (evidence.statistic, evidence.fired, evidence.facts["amplitude"]) == (0.0, False, 0.25)
    assert evidence.facts["next_success"] > 0.75


def test_many_classes_are_screened_and_that_is_told(classifier, clean):
    evidence = AdditiveInversion(most_targets=4, scored=2).run(classifier(), clean, silent, 0)
    assert len(evidence.facts["screened"]) == 4
    assert set(evidence.facts["scored"]) < set(evidence.facts["screened"])


def test_a_search_on_reduced_images_recovers_a_whole_pattern(classifier, clean):
    """Scored on reduced images; what is recovered is measured on whole ones."""
    model = classifier(network=Scaled(classifier("pattern").network.network))
    double = lambda part: part.__class__(  # noqa: E731
        part.images.repeat_interleave(2, 2).repeat_interleave(2, 3), part.labels
    )
    large = clean.__class__(*(double(part) for part in (clean.fit, clean.select, clean.report)))
    evidence = AdditiveInversion(resolution=0.5).run(model, large, silent, 0)
    assert (evidence.fired, evidence.target) == (True, 2)
    (found,) = evidence.recovered
    assert found.parameters["pattern"].shape == (3, 64, 64)
    others = large.select.images[model.answers(large.select.images) != 2]
    after = model.logits(stamp(found, others.float() / 255)).argmax(1)
    assert float((after == 2).float().mean()) == pytest.approx(found.facts["success"])
