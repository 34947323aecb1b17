"""What triggered images do to the units: by hand on small numbers, and on the bundled digits with their trigger."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from PIL import Image

from wiper_cli.audit import detection, explanation
from wiper_cli.audit.stories.scan import scan
from wiper_cli.audit.stories.shared import images_of
from wiper_cli.audit.subject import Notes
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.images.splits import Part
from wiper_cli.salience import METRICS
from wiper_cli.salience.stream import lowest
from wiper_cli.verdict import ExitCode, Problem

DIGITS = example_folder()


@pytest.fixture(scope="module")
def stamped(few_digits, tmp_path_factory):
    """The clean digits 1 to 9 with the trigger, in folders of their true classes."""
    folder = tmp_path_factory.mktemp("stamped")
    patch, mask = Image.open(DIGITS / "trigger.png"), Image.open(DIGITS / "mask.png").convert("L")
    for label in range(1, 10):
        (folder / str(label)).mkdir()
        for place in sorted((few_digits / str(label)).iterdir())[:label]:
            picture = Image.open(place).convert("L")
            picture.paste(patch, mask=mask)
            picture.save(folder / str(label) / place.name)
    return folder


@pytest.fixture(scope="module")
def part(job, digits_subject, stamped):
    return images_of(stamped, job(), digits_subject)


@pytest.fixture(scope="module")
def explained(digits_subject, part):
    return explanation.explain(digits_subject, "stamped", part, Notes())


def test_clean_images_are_weighed_to_the_classes_of_the_triggered():
    clean = torch.tensor([0, 0, 1, 2])
    found = explanation.counterparts(clean, torch.tensor([0, 1, 1, 1]))
    assert found.tolist() == [0.125, 0.125, 0.75, 0.0]
    # Of class 3 there is no clean image: it does not count.
    assert explanation.counterparts(clean, torch.tensor([2, 3, 3])).tolist() == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("triggered", [None, torch.tensor([3, 3])])
def test_without_common_classes_all_clean_images_count_alike(triggered):
    assert explanation.counterparts(torch.tensor([0, 0, 1, 2]), triggered).tolist() == [0.25] * 4


def test_the_lowest_units_and_a_share_of_at_least_one():
    values = torch.tensor([3.0, 1.0, 2.0, 1.0, 5.0])
    assert [explanation.how_many(values, share) for share in (0.0, 0.1, 0.6)] == [1, 1, 3]
    assert lowest(values, 1).nonzero().flatten().tolist() == [1]
    assert lowest(values, 3).nonzero().flatten().tolist() == [1, 2, 3]
    true = {"change": torch.tensor([0.0, 9.0, 0.0, 8.0, 7.0])}
    assert explanation.precisions(values, true, 0.4) == {"change": 1.0}
    assert explanation.precisions(torch.tensor([1.0, 0.0, 5.0, 5.0, 5.0]), true, 0.4) == {"change": 0.5}


def test_where_linear_units_look_is_where_their_weights_are():
    weight = torch.zeros(3, 1, 4, 4)
    weight[0, 0, 0, 0], weight[0, 0, 3, 3], weight[1, 0, 0, 0], weight[2, 0, 2, 1] = 2.0, -1.0, -2.0, 5.0

    class Linear:
        def as_float(self, images):
            return images.float() / 255

        @contextmanager
        def tap(self):
            yield lambda x: (torch.einsum("nchw,dchw->nd", x, weight), None)

    groups = {"two": torch.tensor([True, True, False]), "one": torch.tensor([False, False, True])}
    found = explanation.saliency_maps(Linear(), torch.zeros(2, 1, 4, 4, dtype=torch.uint8), groups)
    expected = torch.zeros(2, 4, 4)
    # The weights of the two cancel in the first corner.
    expected[:, 3, 3] = 1.0
    assert torch.equal(found["two"], expected)
    assert found["one"].nonzero().tolist() == [[0, 2, 1], [1, 2, 1]]


def test_the_trigger_s_class_is_named(explained, part):
    assert (explained["target"], explained["success"]["value"]) == (0, 1.0)
    assert explained["success"]["n"] == len(part) == 45
    assert (explained["base_rate"], explained["recovered"]["value"]) == (0.0, 0.0)
    assert explained["labelled"]
    json.dumps(explained, allow_nan=False)


def test_the_units_values(explained, digits_subject, part):
    classifier, clean = digits_subject.classifier, digits_subject.everything()
    features, logits = classifier.features(part.images)
    weight = classifier.head()[0]
    assert explained["am"] == pytest.approx(features.abs().double().mean(0).tolist())
    zeros = torch.zeros(len(part), dtype=torch.long)
    assert explained["bs"] == METRICS["bs"](features, logits, zeros, weight).tolist()
    plain, _ = classifier.features(clean.images)
    before = sum(k * plain[clean.labels == k].double().mean(0) for k in range(1, 10)) / 45
    shift = features.double().mean(0) - before
    assert explained["change"] == pytest.approx(shift.abs().tolist())
    assert explained["contribution"] == pytest.approx((shift * weight[0].double()).tolist())
    assert explained["moved"] == sorted(range(48), key=lambda unit: -explained["change"][unit])[:5]


def test_clean_images_order_the_units_first(explained, digits_subject):
    from scipy.stats import spearmanr

    known = {"BS": digits_subject.salience.bs, "AM": digits_subject.salience.am}
    assert [entry["metric"] for entry in explained["agreement"]] == list(known)
    change = torch.tensor(explained["change"])
    for entry in explained["agreement"]:
        values = known[entry["metric"]]
        assert entry["rank_correlation"] == pytest.approx(spearmanr(values, -change).statistic)
        low = set(values.argsort()[:5].tolist())
        assert entry["precision"]["change"] == len(low & set(explained["moved"])) / 5
    assert explained["chance"] == 5 / 48


def test_pictures_of_three_images(explained):
    assert len(explained["pictures"]) == 3
    for found in explained["pictures"]:
        assert list(found) == ["triggered", "moved", "lowest", "others"]
        assert all(uri.startswith("data:image/png;base64,") for uri in found.values())
        assert len(set(found.values())) == 4


def test_a_single_image_of_unknown_class(digits_subject, part):
    one = Part(part.images[:1], torch.tensor([-1]))
    found = explanation.explain(digits_subject, "one", one, Notes())
    assert not found["labelled"]
    assert found["recovered"] is None
    assert found["target"] == 0
    assert "not known" in found["compared_with"]
    assert len(found["pictures"]) == 1


def test_the_verdict_does_not_see_it(job, heard, stamped):
    without, explained = scan(job(), heard), scan(job(explain=stamped), heard)
    assert without.explanation is None
    assert explained.explanation["success"]["value"] == 1.0
    assert replace(explained, explanation=None, timing=without.timing) == without


def test_a_file_opened_head_only_gives_all_but_the_maps(job, heard, quantised_file, stamped):
    found = scan(job(model=quantised_file, explain=stamped), heard)
    assert found.model["opened"] == "head-only"
    assert found.explanation["pictures"] is None
    assert len(found.explanation["bs"]) == 48
    assert {
        "what": "attention maps",
        "why": "The file was opened head-only: no gradient reaches the pixels.",
    } in found.not_done


def test_without_a_linear_head_there_is_nothing_to_explain(digits_subject, part):
    notes = Notes()
    assert explanation.explain(replace(digits_subject, salience=None), "stamped", part, notes) is None
    assert [entry["what"] for entry in notes.not_done] == ["explanation"]


def empty(folder):
    pass


def text(folder):
    (folder / "notes.txt").write_text("no picture")


def classes(folder):
    for label in range(11):
        (folder / str(label)).mkdir()
        shutil.copy(DIGITS / "clean/0/000.png", folder / str(label))


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (empty, "holds no files; a folder of images is needed"),
        (text, "no image in it could be read"),
        (classes, "has 11 class folders and the model 10 classes"),
    ],
)
def test_a_folder_of_no_use_is_refused_before_the_long_work(fill, words, job, heard, tmp_path, monkeypatch):
    monkeypatch.setattr(detection, "look", lambda *_: pytest.fail("the long work was started"))
    fill(tmp_path)
    with pytest.raises(Problem, match=words) as caught:
        scan(job(explain=tmp_path, detectors=("max-margin",)), heard)
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(tmp_path) in str(caught.value)
