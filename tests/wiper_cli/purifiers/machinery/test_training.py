import pytest
import torch

from wiper_cli.images.augmentation import augment
from wiper_cli.images.splits import Part
from wiper_cli.progress import silent
from wiper_cli.purifiers.machinery.training import Batches, HeadStudent, NetworkStudent, cosine, train
from wiper_cli.verdict import ExitCode, Problem


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_augment_off_changes_nothing():
    images = torch.randint(256, (5, 3, 6, 7), dtype=torch.uint8, generator=generator())
    assert torch.equal(augment(images, generator(), flip=False, crop=0.0), images)


def test_augment_flips_about_half():
    images = torch.arange(8, dtype=torch.uint8).expand(400, 1, 2, 8)
    assert 150 < (augment(images, generator(), flip=True, crop=0.0)[:, 0, 0, 0] == 7).sum() < 250


def test_augment_shifts_by_reflection():
    images = torch.arange(1, 9, dtype=torch.uint8).expand(300, 1, 1, 8)
    rows = {tuple(row) for row in augment(images, generator(), flip=False, crop=0.25)[:, 0, 0].tolist()}
    assert rows == {
        (3, 2, 1, 2, 3, 4, 5, 6), (2, 1, 2, 3, 4, 5, 6, 7), (1, 2, 3, 4, 5, 6, 7, 8),
        (2, 3, 4, 5, 6, 7, 8, 7), (3, 4, 5, 6, 7, 8, 7, 6),
    }  # fmt: skip


def test_batches_go_round_the_data():
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)
    batches = Batches(images, torch.arange(10), 3, torch.device("cpu"), generator(), passes=2)
    seen = list(batches)
    assert len(batches) == len(seen) == 6
    assert len(torch.cat([y for _, y in seen[:3]]).unique()) == 9
    for x, y in seen:
        assert x.dtype == torch.float32
        assert torch.equal(x.flatten() * 255, y.float())


def test_fewer_images_than_a_batch_and_none():
    batches = Batches(torch.zeros(4, 2), torch.zeros(4), 128, torch.device("cpu"), generator())
    assert [len(x) for x, _ in batches] == [4]
    with pytest.raises(Problem, match="no clean images"):
        Batches(torch.zeros(0, 2), torch.zeros(0), 8, torch.device("cpu"), generator())


def test_cosine_warms_up_and_ends_at_zero():
    factors = [cosine(100, 0.1)(n) for n in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == factors[10] == 1.0
    assert (factors[100], cosine(100)(0)) == (pytest.approx(0), 1.0)


def test_students_start_as_the_model(classifier, clean):
    expected = classifier.logits(clean.select.images)
    for student in (NetworkStudent(classifier), HeadStudent(classifier)):
        inputs = student.inputs(clean.select)
        inputs = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs
        torch.testing.assert_close(student.logits(inputs).detach(), expected, rtol=1e-4, atol=1e-4)
        assert not student.edit()


def test_training_leaves_batch_norm_statistics_and_the_original_alone(classifier, clean):
    before = {name: value.clone() for name, value in classifier.network.state_dict().items()}
    student = NetworkStudent(classifier)
    statistics = {name: value.clone() for name, value in student.network.named_buffers()}
    optimiser = torch.optim.SGD(student.weights.values(), lr=0.01)

    def step(i, x, y):
        loss = torch.nn.functional.cross_entropy(student.logits(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return {"loss": loss}

    batches = Batches(clean.fit.images, clean.fit.labels, 100, student.device, generator())
    calls = []
    history = train(student, batches, 2, step, clean.select, lambda *call: calls.append(call))
    assert [epoch.epoch for epoch in history] == [1, 2]
    assert history[1].moved > history[0].moved > 0
    assert 0.9 < history[1].select_accuracy <= 1
    assert calls == [("purify", n, 6) for n in range(1, 7)]
    assert all(torch.equal(value, statistics[name]) for name, value in student.network.named_buffers())
    assert all(torch.equal(value, before[name]) for name, value in classifier.network.state_dict().items())
    assert set(student.edit().tensors) == set(classifier.model.tensors)


def test_a_loss_that_is_not_finite_ends_the_run(classifier, clean):
    student = NetworkStudent(classifier)
    batches = Batches(clean.fit.images, clean.fit.labels, 100, student.device, generator())
    with pytest.raises(Problem, match="diverged") as refused:
        train(student, batches, 1, lambda i, x, y: {"loss": torch.tensor(float("nan"))}, clean.select, silent)
    assert refused.value.exit_code == ExitCode.NO_VERDICT


def test_an_empty_select_part_has_no_accuracy(classifier, clean):
    student = HeadStudent(classifier)
    batches = Batches(student.inputs(clean.fit), clean.fit.labels, 100, student.device, generator())
    empty = Part(clean.fit.images[:0], clean.fit.labels[:0])
    (epoch,) = train(student, batches, 1, lambda i, x, y: {"loss": x.sum() * 0}, empty, silent)
    assert epoch.select_accuracy != epoch.select_accuracy
