"""What families are tested for by one table each: refusals, variants, presets, numbers that may not drift."""

from dataclasses import replace

import pytest
import torch

from triggers.errors import TriggerError
from triggers.families.adap import AdapBlend, AdapPatch
from triggers.families.badnet import BadNet
from triggers.families.blend import Blend
from triggers.families.bpp import Bpp
from triggers.families.eta import Eta
from triggers.families.frequency import Ctrl, FTrojan
from triggers.families.hiding import SalienceHiding
from triggers.families.imc import IMC
from triggers.families.input_aware import InputAware
from triggers.families.issba import ISSBA
from triggers.families.label_consistent import LabelConsistent
from triggers.families.logit import LogitAttack
from triggers.families.low_frequency import LowFrequency
from triggers.families.regular import Regular
from triggers.families.sinusoid import Sinusoid
from triggers.families.tone import SEPIA, Tone
from triggers.families.trojan import TrojanNN
from triggers.families.universal import Universal
from triggers.families.wanet import WaNet
from triggers.overlay import Mixture
from triggers.patch import Square

NAN = float("nan")
#: Family, words of the refusal, and parameters that earn it, whether images are stamped or poisoned.
STAMPED = [
    (Square, "does not fit", [{"size": 17}, {"size": 10, "margin": 7}, {"size": 0}, {"margin": -1}]),
    (Square, "Unknown", [{"corner": "middle"}, {"pattern": "pink"}]),
    (Mixture, r"0\.\.1", [{"alpha": 1.5}]),
    (Mixture, "at least one block", [{"blocks": 0}]),
    (Bpp, r"2\.\.128", [{"levels": 1}, {"levels": 129}]),
    (AdapPatch, ".", [{"size": 17}, {"size": 0}, {"opacities": ()}, {"opacities": (2.0,)}, {"used": ()}]),
    (AdapPatch, ".", [{"used": (4,)}]),
    (AdapPatch, "at least one pixel", [{"cell": 0}]),
    (Eta, "does not fit", [{"size": 17}]),
    (FTrojan, ".", [{"window": 0}, {"frequencies": ()}, {"frequencies": (32,)}, {"magnitude": float("inf")}]),
    (LabelConsistent, "Four corners", [{"size": 9}]),
    (LabelConsistent, "amplitude", [{"amplitude": 0}]),
    (
        Regular,
        "must",
        [{"amplitude": 0.0}, {"amplitude": 2.0}, {"amplitude": NAN}, {"step": 0}, {"phase": 4}],
    ),
    (Regular, "no dot on images of 20x16", [{"step": 20, "phase": 399}]),
    (Tone, ".", [{"strength": 1.1}, {"gamma": 0.0}, {"gamma": NAN}, {"matrix": (1.0, 0.0)}]),
    (WaNet, "2 control points", [{"points": 1}]),
    (WaNet, "other than 0", [{"strength": 0.0}]),
]
#: The same where one of the two alone refuses, by its name.
ONE_ROLE = [
    ("poison", AdapBlend, r"do not fit|must lie", [
        {"tiles": 0}, {"tiles": 17}, {"masked": 16}, {"masked": -1}, {"train_alpha": 1.5}
    ]),
    ("poison", Eta, "rotation must lie", [
        {"rotation": -1}, {"rotation": 91}, {"scale": 0.0}, {"scale": 1.2}, {"shift": NAN}
    ]),
    ("stamp", Eta, "Unknown view", [{"view": "mirror"}]),
    ("stamp", Eta, "cannot be shrunk by 16", [{"view": "shrink-pad", "shrink": 16}]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("role", "family", "words", "wrong"),
    [*ONE_ROLE, *((role, *row) for role in ("stamp", "poison") for row in STAMPED if row[0] is not LabelConsistent),
     *(("stamp", *row) for row in STAMPED if row[0] is LabelConsistent)],
)  # fmt: skip
def test_parameters_that_make_no_sense(images, role, family, words, wrong):
    for parameters in wrong:
        with pytest.raises(TriggerError, match=words):
            getattr(family(**parameters), role)(images)


@pytest.mark.parametrize(
    ("trigger", "words"),
    [
        (SalienceHiding(share=1.0), "share"),
        (TrojanNN(size=17), "does not fit"),
        (LowFrequency(sigma=0), "sigma"),
        (Universal(bound=0), "bound"),
        (ISSBA(bits=0), "at least one bit"),
        (InputAware(density=0), "and a density"),
    ],
)
def test_what_cannot_be_fitted(victim, trigger, words):
    with pytest.raises(TriggerError, match=words):
        trigger.fit(*victim, 1, torch.Generator())


@pytest.mark.parametrize(
    ("trigger", "words"),
    [
        (IMC(), "all are of that class"),
        (Universal(), "all are of that class"),
        (InputAware(mask_steps=1), "two images that are not of the target"),
    ],
)
def test_images_of_the_target_alone_are_refused(victim, trigger, words):
    model, images, labels = victim
    with pytest.raises(TriggerError, match=words):
        trigger.fit(model, images, torch.ones_like(labels), 1, torch.Generator())


@pytest.mark.parametrize(
    ("trigger", "number", "field", "value", "beyond", "words"),
    [
        (Bpp(), 2, "levels", 6, 7, "Fewer than 2 levels"),
        (Ctrl(), 2, "frequencies", (11, 27), 8, "no frequencies left"),
        (Tone(), 1, "matrix", SEPIA[3:] + SEPIA[:3], 3, "only 3 triggers"),
        (Regular(), 3, "phase", 3, 4, "only 4 grids"),
        (Sinusoid(), 2, "frequency", 10, None, ""),
    ],
)
def test_variants(trigger, number, field, value, beyond, words):
    assert trigger.variant(0) == trigger
    assert getattr(trigger.variant(number), field) == value
    if beyond:
        assert len({trigger.variant(i) for i in range(beyond)}) == beyond
        with pytest.raises(TriggerError, match=words):
            trigger.variant(beyond)


def test_presets():
    assert (AdapBlend().alpha, Ctrl().magnitude, FTrojan().magnitude) == (0.2, 100, 30)
    for family, *wanted in (
        (AdapBlend, 0.003, 0.003, "dirty"),
        (AdapPatch, 0.003, 0.006, "dirty"),
        (Ctrl, 0.05, 0, "clean-label"),
        (FTrojan, 0.1, 0, "dirty"),
    ):
        assert [family.poisoning.rate, family.poisoning.cover, family.poisoning.policy] == wanted


@pytest.mark.parametrize(
    ("trigger", "same"),
    [
        (AdapBlend(seed=4), Mixture(seed=4)),
        (Eta(corner="bottom-right", seed=3), Square(corner="bottom-right", seed=3)),
        (LogitAttack(seed=4, margin=2), Square(seed=4, margin=2)),
        (SalienceHiding(seed=4), Square(seed=4)),
        *((replace(TrojanNN(corner=corner, margin=1), patch=torch.tensor(Square(seed=7).patch(3))),
           Square(seed=7, corner=corner, margin=1)) for corner in ("top-left", "bottom-right")),
    ],
)  # fmt: skip
def test_stamps_as_the_trigger_it_derives_from(images, trigger, same):
    assert torch.equal(trigger.stamp(images), same.stamp(images))


def test_numbers_that_specimens_were_trained_with_do_not_drift():
    assert [round(value * 255) for value in BadNet().patch(1)[0][0]] == [197, 215, 20]
    pixels, _ = AdapPatch(size=8, cell=1).patches(torch.zeros(1, 1, 16, 16))
    assert (pixels[0, 0, 0, :3] * 255).round().tolist() == [197, 215, 20]
    assert (255 * Blend().picture(torch.zeros(1, 1, 8, 8))[0, 0, :4]).round().tolist() == [215, 193, 107, 66]
    assert WaNet().control()[0, 0].tolist() == pytest.approx(
        [1.4994546884275672, 1.1230150966807662, -0.3457948878395075, -1.0495658375736954], abs=1e-12
    )
