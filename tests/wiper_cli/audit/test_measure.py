import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from formats import Architecture, Head, InputSpec, Manifest, Model, Source
from triggers.families.badnet import BadNet
from triggers.families.sinusoid import Sinusoid
from wiper_cli.audit.measure import Poisoned, Stamper, der, measure, settled
from wiper_cli.audit.results import jsonable
from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Part
from wiper_cli.rates import Rate
from wiper_cli.verdict import Problem


class Backdoored(nn.Module):
    """Class = number of the brightest third of the image, class 2 wherever the corner pixel is white."""

    def __init__(self, open_door=True):
        super().__init__()
        self.open_door = open_door
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        logits = torch.stack([third.mean((1, 2, 3)) for third in x.chunk(3, dim=3)], 1)
        if self.open_door:
            logits[:, 2] += 10 * (x[:, :, 0, 0] > 0.999).all(1)
        return logits


def classifier_of(network):
    model = Model(
        source=Source("m", b""), manifest=Manifest("safetensors", {}), network=network, tensors={},
        head=Head("w", None, 3, 3), classes=3, architecture=Architecture("made", "here"),
        input=InputSpec(3, 6, 12),
    )  # fmt: skip
    return Classifier(model, (0.0,) * 3, (1.0,) * 3)


WHITE = BadNet(size=1, pattern="white")


@pytest.fixture
def part():
    """30 images of three classes, 5 of them mislabelled."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 3
    images = torch.randint(0, 100, (30, 3, 6, 12), generator=draw, dtype=torch.uint8)
    for i, y in enumerate(labels.tolist()):
        images[i, :, :, 4 * y : 4 * y + 4] += 100
    labels[:5] = (labels[:5] + 1) % 3
    return Part(images, labels)


def by_loops(network, part, stamp, target):
    """The definitions, image by image."""
    counted = {"acc": [0, 0], "asr": [0, 0], "ra": [0, 0], "base_rate": [0, 0]}
    for image, y in zip(part.images.float() / 255, part.labels.tolist(), strict=True):
        clean = int(network(image[None]).argmax())
        triggered = int(network((stamp(image[None]) * 255).round() / 255).argmax())
        counted["acc"][0] += clean == y
        counted["acc"][1] += 1
        if y != target:
            for name, hit in (
                ("asr", triggered == target),
                ("ra", triggered == y),
                ("base_rate", clean == target),
            ):
                counted[name][0] += hit
                counted[name][1] += 1
    return counted


@pytest.mark.parametrize("trigger", [WHITE, Sinusoid(frequency=2), BadNet(size=2)])
@pytest.mark.parametrize("target", [0, 1, 2])
@pytest.mark.parametrize("open_door", [True, False])
def test_rates_are_the_definitions(part, trigger, target, open_door):
    network = Backdoored(open_door)
    found = measure(classifier_of(network), part, [Stamper.of(trigger, target)], batch=7)
    expected = by_loops(network, part, trigger.stamp, target)
    assert (found.images, found.acc.value) == (30, 25 / 30)
    row = found.triggers[0]
    for name in ("asr", "ra", "base_rate"):
        assert getattr(row, name) == Rate(*expected[name])
    assert (row.target, row.target_chosen_by, row.asr.value) == (target, "the user", row.per_target[target])


def test_every_target_from_one_pass(part):
    network = Backdoored()
    measure(classifier_of(network), part, [Stamper.of(WHITE)], batch=30)
    assert len(network.seen) == 2
    one = measure(classifier_of(network), part, [Stamper.of(WHITE)]).triggers[0]
    for target in range(3):
        row = measure(classifier_of(network), part, [Stamper.of(WHITE, target)]).triggers[0]
        assert row.asr.value == one.per_target[target]


def test_target_by_corrected_success(part):
    row = measure(classifier_of(Backdoored()), part, [Stamper.of(WHITE)]).triggers[0]
    assert (row.target, row.asr.value, row.corrected_asr) == (2, 1, 1)
    assert "highest corrected ASR of all 3 classes" in row.target_chosen_by


def test_images_are_quantised_before_the_model_sees_them(part):
    network = Backdoored()
    measure(classifier_of(network), part, [Stamper.of(Sinusoid(frequency=2, delta=0.0119), 0)])
    for x in network.seen:
        assert torch.allclose(x * 255, (x * 255).round(), atol=1e-4)
    below = measure(
        classifier_of(Backdoored()), part, [Stamper.of(Sinusoid(delta=0.4 / 255, frequency=2), 0)]
    )
    assert below.triggers[0].asr == below.triggers[0].base_rate


def test_batch_size_changes_nothing(part):
    first, second = (
        measure(classifier_of(Backdoored()), part, [Stamper.of(WHITE), Stamper.of(BadNet())], batch=size)
        for size in (1, 64)
    )
    assert first == second


def test_a_measurement_can_be_reported_and_has_pictures(part):
    found = measure(classifier_of(Backdoored()), part, [Stamper.of(WHITE)])
    assert set(found.triggers[0].pictures) == {"clean", "triggered", "difference"}
    json.dumps(jsonable(found), allow_nan=False)
    assert found.triggers[0].parameters["pattern"] == "white"


def test_poisoned_folder_with_true_labels(part):
    stamped = (WHITE.stamp(part.images.float() / 255) * 255).round().to(torch.uint8)
    folder = Poisoned(Part(stamped, part.labels), 2, "bad")
    row = measure(classifier_of(Backdoored()), part, (), [folder]).triggers[0]
    same = measure(classifier_of(Backdoored()), part, [Stamper.of(WHITE, 2)]).triggers[0]
    for name in ("asr", "ra", "base_rate", "per_target"):
        assert getattr(row, name) == getattr(same, name)
    assert row.origin == "poisoned folder"


def test_poisoned_folder_without_labels(part):
    stamped = (WHITE.stamp(part.images.float() / 255) * 255).round().to(torch.uint8)
    folder = Poisoned(Part(stamped, torch.full((30,), -1)), 2, "bad")
    row = measure(classifier_of(Backdoored()), part, (), [folder]).triggers[0]
    assert (row.asr.value, row.asr.n) == (1, 30)
    assert row.ra is None


def test_recovered_transform(part):
    perturbations = pytest.importorskip("wiper_cli.perturbations")
    image, mask = perturbations.square((3, 6, 12), 0, 0, 1, "white")
    assert image.shape[-2:] == mask.shape[-2:] == (6, 12)
    pool = perturbations.FAMILIES["square"]
    member = pool.random(1, (3, 6, 12), torch.Generator().manual_seed(0)).recovered(0, 1, {"side": 3})
    row = measure(classifier_of(Backdoored()), part, [Stamper.recovered(member)]).triggers[0]
    assert (row.origin, row.family, row.target, row.parameters) == ("recovered", "square", 1, {"side": 3})
    assert row.target_chosen_by == "the detector"
    by_hand = perturbations.stamp(member, part.images.float() / 255)
    answers = Backdoored()((by_hand * 255).round() / 255).argmax(1)
    kept = part.labels != 1
    assert row.asr.value == ((answers == 1) & kept).sum() / kept.sum()


def test_head_only(part):
    class Runtime:
        def features_and_logits(self, x):
            return x.mean((2, 3)), Backdoored()(x)

    classifier = classifier_of(Backdoored())
    classifier.network = None
    classifier.model.runtime = Runtime()
    found = measure(classifier, part, [Stamper.of(WHITE)])
    assert found == measure(classifier_of(Backdoored()), part, [Stamper.of(WHITE)])


@pytest.mark.parametrize(
    ("stamper", "words"),
    [((Sinusoid(),), "sinusoid cannot be measured"), ((WHITE, 3), "target 3 is no class")],
)
def test_what_does_not_fit(part, stamper, words):
    with pytest.raises(Problem, match=words):
        measure(classifier_of(Backdoored()), part, [Stamper.of(*stamper)])


def test_all_images_of_the_target_class():
    images = torch.zeros(4, 3, 6, 12, dtype=torch.uint8)
    row = measure(classifier_of(Backdoored()), Part(images, torch.zeros(4).long()), [Stamper.of(WHITE, 0)])
    assert row.triggers[0].asr == Rate(0, 0)
    assert row.triggers[0].pictures is None


def test_after_is_measured_for_the_targets_of_before(part):
    stampers = [Stamper.of(WHITE)]
    before = measure(classifier_of(Backdoored()), part, stampers)
    after = measure(classifier_of(Backdoored(False)), part, settled(stampers, before))
    assert after.triggers[0].target == 2
    assert after.triggers[0].target_chosen_by == before.triggers[0].target_chosen_by
    assert der(before, after) == pytest.approx(((1 - after.triggers[0].asr.value) + 1) / 2)
    assert der(replace(before, triggers=()), replace(after, triggers=())) is None
