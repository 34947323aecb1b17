from dataclasses import replace

import pytest
import torch

from wiper_cli.bench.ground import FEWEST, Ground, ground_of, subject_of
from wiper_cli.images.splits import Part
from wiper_cli.verdict import Problem


def test_rates_by_hand():
    class Fixed:
        """Answers with the class that stands in the first pixel."""

        def answers(self, images):
            return images[:, 0, 0, 0].long()

    def pictures(answers):
        return torch.tensor(answers, dtype=torch.uint8).reshape(-1, 1, 1, 1)

    labels = torch.tensor([0, 1, 1, 2, 2])
    target = torch.zeros(5, dtype=torch.long)
    test = Part(pictures([0, 1, 0, 2, 1]), labels)
    ground = Ground(test, ((pictures([0, 0, 0, 2, 1]), target, labels != 0),), 3)
    found = ground.measure(Fixed())
    assert {key: (share["value"], share["n"]) for key, share in found.items()} == {
        "acc": (3 / 5, 5), "asr": (2 / 4, 4), "ra": (1 / 4, 4), "base_rate": (1 / 4, 4),
    }  # fmt: skip
    assert ground.measure(Fixed(), first=2)["asr"] == {
        "value": 1.0, "n": 1, "interval": pytest.approx([0.2065, 1.0], abs=1e-4),
    }  # fmt: skip


def test_fewer_test_images_are_the_first_of_more(place, badnet):
    few, many = ground_of(badnet, 10, place), ground_of(badnet, 30, place)
    assert torch.equal(few.test.images, many.test.images[:10])
    assert torch.equal(few.triggered[0][0], many.triggered[0][0][:10])
    assert bool((few.test.images != few.triggered[0][0]).flatten(2).any(2).any(1).all())


def test_what_judges_is_not_loaded(place, held_out):
    for load in (
        lambda own: ground_of(held_out, 10, own),
        lambda own: subject_of(held_out, "model.safetensors", 50, "folder", 1, own),
    ):
        with pytest.raises(Problem, match=f"{held_out}: held out for judging"):
            load(place)
        load(replace(place, judge=True))


def test_few_images_are_cut_in_proportion(place, badnet):
    _, parts = subject_of(badnet, "model.safetensors", 50, "folder", 1, place)
    assert [len(parts.fit), len(parts.select), len(parts.report)] == [30, 10, 10]
    assert FEWEST > 50


def test_without_labels_the_models_own_stand(place, badnet):
    classifier, parts = subject_of(badnet, "model.safetensors", 0, "model", 1, place)
    assert torch.equal(parts.fit.labels, classifier.logits(parts.fit.images).argmax(1))
