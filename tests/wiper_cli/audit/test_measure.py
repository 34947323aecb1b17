import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from formats import Architecture, Head, InputSpec, Manifest, Model, Source
from triggers.families.badnet import BadNet
from triggers.families.sinusoid import Sinusoid
from wiper_cli import perturbations
from wiper_cli.audit.measure import Asked, Poisoned, Stamper, der, measure, settled
from wiper_cli.audit.results import jsonable
from wiper_cli.classifier import Classifier
from wiper_cli.images import thumbnails
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
        source=Source("m", b""),
        manifest=Manifest("safetensors", {}),
        network=network,
        tensors={},
        head=Head("w", None, 3, 3),
        classes=3,
        architecture=Architecture("made", "here"),
        input=InputSpec(3, 6, 12),
    )
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
    assert found.images == 30
    assert found.acc.value == 25 / 30
    row = found.triggers[0]
    for name in ("asr", "ra", "base_rate"):
        assert getattr(row, name) == Rate(*expected[name])
    assert row.target == target
    assert row.target_chosen_by == "the user"
    assert row.asr.value == row.per_target[target]


def test_every_target_from_one_pass(part):
    network = Backdoored()
    measure(classifier_of(network), part, [Stamper.of(WHITE)], batch=30)
    assert [len(x) for x in network.seen] == [30, 30, *[1] * 30]
    one = measure(classifier_of(network), part, [Stamper.of(WHITE)]).triggers[0]
    for target in range(3):
        row = measure(classifier_of(network), part, [Stamper.of(WHITE, target)]).triggers[0]
        assert row.asr.value == one.per_target[target]


def test_target_by_corrected_success(part):
    row = measure(classifier_of(Backdoored()), part, [Stamper.of(WHITE)]).triggers[0]
    assert row.target == 2
    assert row.asr.value == 1
    assert row.corrected_asr == 1
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
    assert (first.asked, second.asked) == (Asked(batch=1, one_by_one=30), Asked(batch=64, one_by_one=30))
    assert replace(first, asked=second.asked) == second


class Shy(Backdoored):
    """Opens its door to ``few`` images at a time only."""

    def __init__(self, few):
        super().__init__()
        self.few = few

    def forward(self, x):
        self.open_door = len(x) <= self.few
        return super().forward(x)


def test_a_trigger_that_works_one_by_one_is_measured_one_by_one(part):
    found = measure(classifier_of(Shy(1)), part, [Stamper.of(WHITE)]).triggers[0]
    plain = measure(classifier_of(Backdoored()), part, [Stamper.of(WHITE)]).triggers[0]
    assert (found.target, found.asr.value, found.batched) == (2, 1, found.base_rate)
    assert replace(found, batched=None) == plain
    assert plain.batched is plain.opened is None
    folder = Poisoned(few([1, 0, 0, 0, 2]), 2, "bad")
    row = measure(classifier_of(Shy(1)), part, (), [folder]).triggers[0]
    assert (row.asr, row.batched) == (Rate(2, 4), Rate(0, 4))


def test_what_the_opened_network_does_not_see_is_said(part):
    stampers = [Stamper.of(WHITE), Stamper.of(BadNet(size=2))]
    blind, seeing = classifier_of(Backdoored(False)), classifier_of(Backdoored())
    found = measure(classifier_of(Backdoored()), part, stampers, opened=blind).triggers
    assert found[0].asr.value == 1
    assert found[0].opened == found[0].base_rate
    same = measure(classifier_of(Backdoored()), part, stampers, opened=seeing).triggers
    assert [row.opened for row in same] == [None, None]


def test_a_family_is_measured_as_it_is_unless_told_otherwise():
    found = Stamper.of(WHITE)
    assert (found.family, found.origin, found.target, found.chosen_by, found.seed) == (
        "badnet",
        "built-in",
        None,
        "",
        0,
    )
    given = Stamper.of(WHITE, 1, 7, "known")
    assert (given.origin, given.target, given.chosen_by, given.seed) == ("known", 1, "the user", 7)
    assert found.parameters["pattern"] == "white"


def as_bytes(stamped):
    return (stamped * 255).round().to(torch.uint8)


def few(labels):
    """Five images, of class 1, of class 0 three times, of class 2; the last three carry the trigger."""
    images = torch.zeros(5, 3, 6, 12, dtype=torch.uint8)
    images[0, :, :, 4:8] = 100
    images[1:4, :, :, :4] = 90 + 20 * torch.arange(3).view(3, 1, 1, 1)
    images[4, :, :, 8:] = 100
    images[2:] = as_bytes(WHITE.stamp(images[2:] / 255))
    return Part(images, torch.tensor(labels))


@pytest.mark.parametrize(
    ("labels", "target", "shown"),
    [
        ([1, 0, 0, 0, 2], 2, 2),  # the first of another class that is taken for the target
        (
            [1, 0, 0, 0, 2],
            0,
            0,
        ),  # none is: the first of another class; class 0 answers images of class 0 alone
        ([1, 1, 0, 0, 2], 1, 2),
        ([-1, -1, -1, -1, -1], 2, 2),
        ([0, 0, 0, 0, 0], 0, 0),  # all are of the target class
    ],
)
def test_a_poisoned_folder_is_told_with_one_of_its_images(part, labels, target, shown):
    folder = Poisoned(few(labels), target, "bad")
    row = measure(classifier_of(Backdoored()), part, (), [folder]).triggers[0]
    assert (row.family, row.origin, row.parameters) == ("unknown", "poisoned folder", {"path": "bad"})
    assert (row.target, row.target_chosen_by) == (target, "the user")
    picture = thumbnails.uri(folder.part.images[shown] / 255)
    assert row.pictures == {"clean": None, "triggered": picture, "difference": None}


def test_a_poisoned_folder_of_the_same_images_gives_the_same_rates(part):
    stamped = as_bytes(WHITE.stamp(part.images / 255))
    folders = [Poisoned(Part(stamped, labels), 2, "bad") for labels in (part.labels, torch.full((30,), -1))]
    found = measure(classifier_of(Backdoored()), part, [Stamper.of(WHITE, 2)], folders).triggers
    for name in ("asr", "ra", "base_rate", "per_target"):
        assert getattr(found[1], name) == getattr(found[0], name)
    assert (found[2].asr, found[2].ra) == (Rate(30, 30), None)


def test_an_image_that_is_carried_over_is_shown(part):
    """Images 0 and 2 are the first that are not of class 2."""
    row = measure(classifier_of(Backdoored()), part, [Stamper.of(WHITE, 2)]).triggers[0]
    clean = part.images[0] / 255
    assert row.pictures == thumbnails.triple(clean, WHITE.stamp(clean[None])[0])
    json.dumps(jsonable(row), allow_nan=False)
    late = Stamper("late", "known", {}, lambda x, _: torch.cat([x[:1], WHITE.stamp(x[1:])]), 2)
    row = measure(classifier_of(Backdoored()), part, [late]).triggers[0]
    assert row.pictures == thumbnails.triple(part.images[2] / 255, part.images[2] / 255)


def test_what_a_trigger_draws_follows_its_seed(part):
    """Anew for the picture."""
    drawn, expected = [], torch.rand(2, generator=torch.Generator().manual_seed(7)).tolist()

    def stamp(images, generator):
        drawn.append(torch.rand(1, generator=generator).item())
        return images

    measure(classifier_of(Backdoored()), part, [Stamper("noise", "known", {}, stamp, 1, seed=7)], batch=15)
    assert drawn == [*expected, expected[0]]


def test_progress_counts_triggers_and_folders(part):
    told = []
    folder = Poisoned(few([0, 1, 1, 1, 2]), 2, "bad")
    measure(
        classifier_of(Backdoored()),
        part,
        [Stamper.of(WHITE)] * 2,
        [folder],
        progress=lambda *step: told.append(step),
    )
    assert told == [("verify", done, 3) for done in range(4)]


def test_recovered_transform(part):
    image, mask = perturbations.square((3, 6, 12), 0, 0, 1, "white")
    assert image.shape[-2:] == mask.shape[-2:] == (6, 12)
    pool = perturbations.FAMILIES["square"]
    member = pool.random(1, (3, 6, 12), torch.Generator().manual_seed(0)).recovered(0, 1, {"side": 3})
    row = measure(classifier_of(Backdoored()), part, [Stamper.recovered(member)]).triggers[0]
    assert (row.origin, row.family, row.target) == ("recovered", "square", 1)
    assert row.parameters == {"side": 3}
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


def test_trigger_that_does_not_fit(part):
    with pytest.raises(Problem, match="sinusoid cannot be measured"):
        measure(classifier_of(Backdoored()), part, [Stamper.of(Sinusoid())])


def test_target_that_is_no_class(part):
    with pytest.raises(Problem, match="target 3 is no class"):
        measure(classifier_of(Backdoored()), part, [Stamper.of(WHITE, 3)])


def test_all_images_of_the_target_class():
    images = torch.zeros(4, 3, 6, 12, dtype=torch.uint8)
    row = measure(classifier_of(Backdoored()), Part(images, torch.zeros(4).long()), [Stamper.of(WHITE, 0)])
    assert row.triggers[0].asr == Rate(0, 0)
    assert row.triggers[0].pictures is None


def test_after_is_measured_for_the_targets_of_before(part):
    stampers, folder = [Stamper.of(WHITE)], Poisoned(few([0, 1, 1, 1, 2]), 2, "bad")
    before = measure(classifier_of(Backdoored()), part, stampers, [folder])
    after = measure(classifier_of(Backdoored(False)), part, settled(stampers, before), [folder])
    assert after.triggers[0].target == 2
    assert after.triggers[0].target_chosen_by == before.triggers[0].target_chosen_by
    before, after = (replace(one, triggers=one.triggers[:1]) for one in (before, after))
    fall = 1 - after.triggers[0].asr.value
    assert der(before, after) == pytest.approx((fall + 1) / 2)
    assert der(replace(before, triggers=()), replace(after, triggers=())) is None
    unmeasured = replace(after, triggers=[replace(after.triggers[0], asr=Rate())])
    assert der(before, unmeasured) is der(unmeasured, before) is None
    with pytest.raises(ValueError, match="shorter"):
        der(before, replace(after, triggers=()))


class Rolled(Backdoored):
    """Class = number of the brightest third, and the next one wherever the corner pixel is white."""

    def forward(self, x):
        logits = torch.stack([third.mean((1, 2, 3)) for third in x.chunk(3, dim=3)], 1)
        there = (x[:, :, 0, 0] > 0.999).all(1)[:, None]
        return torch.where(there, logits.roll(1, 1), logits)


@pytest.mark.parametrize("mapping", [{0: 1, 1: 2, 2: 0}, {0: 1, 2: 0}])
def test_a_map_is_measured_from_class_to_class(part, mapping):
    """25 of 30 images are what their labels say; those of a mislabelled one follow no map of labels."""
    canvas, mask = torch.ones(3, 6, 12), torch.zeros(1, 6, 12)
    mask[:, 0, 0] = 1
    found = perturbations.Recovered("patch", 1, {"canvas": canvas, "mask": mask}, mapping=mapping)
    model = classifier_of(Rolled())
    (row,) = measure(model, part, [Stamper.recovered(found)]).triggers
    assert (row.target, row.mapping) == (None, mapping)
    answers = model.logits(part.images).argmax(1)
    counted = torch.tensor([int(y) in mapping for y in part.labels])
    right = answers == part.labels
    assert row.asr == Rate(int((right & counted).sum()), int(counted.sum()))
    assert row.base_rate.share < 0.2 < 0.8 < row.asr.share
    assert row.ra is not None
    assert row.ra.share < 0.2
    assert row.pictures is not None
    assert (
        measure(classifier_of(Backdoored(open_door=False)), part, [Stamper.recovered(found)])
        .triggers[0]
        .asr.share
        < 0.2
    )


def test_a_map_to_no_class(part):
    found = Stamper("patch", "recovered", {}, lambda images, _: images, mapping={0: 5})
    with pytest.raises(Problem, match="target 5 is no class"):
        measure(classifier_of(Backdoored()), part, [found])
