"""What every family keeps, whatever it does."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import pytest
import torch

import triggers
from triggers.errors import TriggerError
from triggers.family import Trigger, quantise
from triggers.poisoning import Poisoning


def test_importing_families_imports_no_torch():
    code = (
        "import sys, triggers; [triggers.find(n) for n in triggers.names()];"
        "print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_table_names_and_classes_agree():
    for name in triggers.names():
        found = triggers.find(name)
        assert found.name == name
        assert found.title
        assert found.source
        assert found.poisoning
        assert "AML.T0043.004" in found.atlas


def test_unknown_family():
    with pytest.raises(KeyError):
        triggers.find("nothing")


def test_stamping_is_pure_in_range_and_visible(trigger, images):
    before = images.clone()
    stamped = trigger.stamp(images)
    assert torch.equal(images, before)
    assert stamped.shape == images.shape
    assert stamped.dtype == images.dtype
    assert stamped.min() >= 0
    assert stamped.max() <= 1
    assert (quantise(stamped) != images).flatten(1).any(1).all()
    assert torch.equal(stamped, trigger.stamp(images))


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_batch_split_changes_nothing(trigger, images, batch):
    parts = torch.cat([trigger.stamp(part) for part in images.split(batch)])
    assert torch.equal(parts, trigger.stamp(images))


@pytest.mark.parametrize("role", ["stamp", "poison", "cover"])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_batch_split_with_one_generator_changes_nothing(trigger, images, role, batch):
    act = getattr(trigger, role)
    draw = torch.Generator().manual_seed(5)
    parts = torch.cat([act(part, draw) for part in images.split(batch)])
    assert torch.equal(parts, act(images, torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("role", ["poison", "cover"])
def test_poisoning_is_pure_in_range_and_visible(trigger, images, role):
    before = images.clone()
    stamped = getattr(trigger, role)(images)
    assert torch.equal(images, before)
    assert (stamped.shape, stamped.dtype) == (images.shape, images.dtype)
    assert stamped.min() >= 0
    assert stamped.max() <= 1
    assert (quantise(stamped) != images).flatten(1).any(1).all()
    assert torch.equal(stamped, getattr(trigger, role)(images))


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (1, 3, 15, 33), (2, 2, 64, 40), (0, 3, 20, 16)])
@pytest.mark.parametrize("role", ["stamp", "poison", "cover"])
def test_any_size_and_channel_count(trigger, shape, role):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    try:
        assert getattr(trigger, role)(images).shape == shape
        return
    except TriggerError as error:
        said = str(error)
    fitted = any("fitted" in item.metadata for item in fields(trigger))
    assert ("fitted to images of" if fitted else "channels") in said
    assert shape[1:] != (3, 20, 16), "what it was fitted to"


def test_float64_stays_float64(trigger, images):
    stamped = trigger.stamp(images.double())
    assert stamped.dtype == torch.float64
    assert torch.allclose(stamped.float(), trigger.stamp(images), atol=1e-6)


@pytest.mark.parametrize("wrong", [torch.zeros(3, 8, 8), torch.zeros(2, 3, 20, 16, dtype=torch.uint8)])
def test_other_tensors_are_refused(trigger, wrong):
    for act in (trigger.stamp, trigger.poison, trigger.cover):
        with pytest.raises(TriggerError, match="stamps float images"):
            act(wrong)


def test_parameters_are_frozen(trigger):
    with pytest.raises(FrozenInstanceError):
        setattr(trigger, fields(trigger)[0].name, 1)


def test_fitting_is_pure_and_its_seed_decides(unfitted, victim):
    model, images, labels = victim
    before, state = images.clone(), torch.get_rng_state()
    first, again, other = (
        unfitted.fit(model, images, labels, 1, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    stored = [item.name for item in fields(unfitted) if item.metadata.get("stored")]
    one, two, three = ([getattr(t, name) for name in stored] for t in (first, again, other))
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(one, two, strict=True))
    if unfitted.needs != "nothing":
        assert not all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_what_is_not_fitted_or_cannot_be_is_refused(unfitted, victim, images):
    model, training, labels = victim
    seed = torch.Generator()
    needs = {unfitted.needs, unfitted.needs_to_poison}
    if unfitted.needs != "nothing":
        for act in (unfitted.stamp, unfitted.poison, unfitted.cover):
            with pytest.raises(TriggerError, match="not fitted"):
                act(images)
    if unfitted.needs_to_poison == "model":
        act, given = unfitted.cotrain, (model, training, labels, Poisoning(), seed)
        if type(unfitted).cotrain is Trigger.cotrain:
            act, given = unfitted.poison, (images,)
        with pytest.raises(TriggerError, match="fit it to that model first"):
            act(*given)
    if "model" in needs:
        with pytest.raises(TriggerError, match=r"give the model|there is none"):
            unfitted.fit(None, training, labels, 1, seed)
    if "model" in needs and not unfitted.trained_along:
        for target in (-1, 4):
            with pytest.raises(TriggerError, match="outside the 4 classes"):
                unfitted.fit(model, training, labels, target, seed)
    with pytest.raises(TriggerError, match="uint8"):
        unfitted.fit(model, training.float(), labels, 1, seed)


def test_quantise_gives_the_levels_of_a_stored_picture():
    values = torch.tensor([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 100.49 / 255, 1.0, 1.3])
    assert torch.equal(quantise(values) * 255, torch.tensor([0.0, 0, 0, 1, 100, 255, 255]))


@pytest.mark.gpu
def test_stays_on_the_device(trigger, images):
    for act in (trigger.stamp, trigger.poison, trigger.cover):
        stamped = act(images.cuda())
        assert stamped.device.type == "cuda"
        assert torch.allclose(stamped.cpu(), act(images), atol=1e-5)
