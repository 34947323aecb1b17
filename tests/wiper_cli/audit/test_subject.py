"""What every examination begins with: device, images, the choice among networks, one pass."""

import dataclasses
import shutil

import pytest
import torch
from PIL import Image
from refusals import refused
from safetensors.torch import save_file
from small_classifiers import DIGITS

from formats import Ambiguous, Source, open_model
from wiper_cli.audit.subject import Notes, device, prepare, ready
from wiper_cli.verdict import ExitCode, Problem, Severity


def test_devices_that_exist():
    assert device("cpu").type == "cpu"
    assert device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda:99", "this machine has"),
        ("tpu", "is not a device"),
        ("", "is not a device"),
        ("cuda:x", "is not a device"),
        ("meta", "is not supported"),
        ("mps", "is not supported"),
    ],
)
def test_devices_that_do_not(name, words):
    with pytest.raises(Problem, match=words) as caught:
        device(name)
    assert caught.value.exit_code == ExitCode.USAGE
    assert f"--device {name}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_device_ends_a_run(job, heard):
    with pytest.raises(Problem, match="tpu"):
        prepare(job(device="tpu"), heard, Notes())


def test_notes_add_up():
    notes = Notes()
    for _ in range(2):
        with notes.stage("open"):
            pass
    with pytest.raises(KeyError), notes.stage("failing"):
        raise KeyError
    notes.omit("salience", "no head")
    assert set(notes.timing) == {"open", "failing"}
    assert notes.not_done == [{"what": "salience", "why": "no head"}]


def test_accuracy_and_salience_are_of_all_images(digits_subject):
    part = digits_subject.everything()
    guesses = digits_subject.classifier.logits(part.images).argmax(1)
    assert len(part) == digits_subject.salience.images == 120
    assert digits_subject.accuracy == float((guesses == part.labels).double().mean()) > 0.9
    assert digits_subject.class_names == [str(k) for k in range(10)]


def test_a_folder_larger_than_the_limit_is_streamed_with_the_same_result(job, heard, digits_subject):
    streamed = prepare(job(max_images=90), heard, Notes())
    assert (len(streamed.everything()), streamed.salience.images) == (90, 120)
    assert streamed.accuracy == digits_subject.accuracy
    torch.testing.assert_close(streamed.salience.bs, digits_subject.salience.bs, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(streamed.salience.am, digits_subject.salience.am, rtol=1e-5, atol=1e-8)
    assert streamed.salience.correct == digits_subject.salience.correct


def test_accuracy_of_a_streamed_folder_counts_what_is_not_held(job, heard, few_digits, tmp_path):
    """Every image that is labelled wrongly lowers the accuracy, also those beyond --max-images."""
    folder = tmp_path / "clean"
    shutil.copytree(few_digits, folder)
    for picture in list((folder / "7").iterdir()):
        picture.rename(folder / "8" / f"seven-{picture.name}")
    whole = prepare(job(clean=folder), heard, Notes())
    streamed = prepare(job(clean=folder, max_images=90), heard, Notes())
    assert streamed.accuracy == whole.accuracy < 0.92


def test_a_flat_folder_has_predicted_labels_and_no_accuracy(job, heard, few_digits, tmp_path):
    for picture in few_digits.rglob("*.png"):
        shutil.copy(picture, tmp_path / f"{picture.parent.name}-{picture.name}")
    subject = prepare(job(clean=tmp_path, max_images=90), heard, Notes())
    assert not subject.folder.labelled
    assert "predictions" in subject.folder.origin
    assert subject.accuracy is None
    part = subject.everything()
    assert torch.equal(part.labels, subject.classifier.logits(part.images).argmax(1))
    assert subject.salience.images == subject.salience.correct == len(part) == 90


def test_without_salience_accuracy_is_measured_all_the_same(job, heard, digits_subject):
    notes = Notes()
    subject = prepare(job(), heard, notes, salience=False)
    assert subject.salience is None
    assert (subject.accuracy, notes.not_done) == (digits_subject.accuracy, [])


def test_a_model_without_a_linear_head_says_that_nothing_was_scored(job, heard, monkeypatch):
    def headless(source, arch):
        return dataclasses.replace(open_model(source, arch), head=None)

    monkeypatch.setattr("wiper_cli.audit.subject.open_model", headless)
    notes = Notes()
    subject = prepare(job(), heard, notes)
    assert subject.salience is None
    assert subject.accuracy > 0.9
    assert [entry["what"] for entry in notes.not_done] == ["salience"]


def test_a_head_only_model_is_scored_through_its_runtime(job, heard, quantised_file):
    subject = prepare(job(model=quantised_file), heard, Notes())
    assert subject.model.head_only
    assert (subject.salience.images, subject.salience.bs.shape) == (120, (48,))
    assert float(subject.salience.am.sum()) > 0


def _tensors():
    """A residual network of six layers whose max-pooling behind the stem leaves no trace in the shapes."""
    generator = torch.Generator().manual_seed(0)
    found = {}

    def conv(name, outputs, inputs, size):
        scale = (2 / (inputs * size * size)) ** 0.5
        found[f"{name}.weight"] = torch.randn(outputs, inputs, size, size, generator=generator) * scale

    def norm(name, width):
        found[f"{name}.weight"], found[f"{name}.bias"] = torch.ones(width), torch.zeros(width)
        found[f"{name}.running_mean"], found[f"{name}.running_var"] = torch.zeros(width), torch.ones(width)

    conv("conv1", 8, 1, 3)
    norm("bn1", 8)
    for stage, inputs, width in ((1, 8, 8), (2, 8, 16)):
        conv(f"layer{stage}.0.conv1", width, inputs, 3)
        norm(f"layer{stage}.0.bn1", width)
        conv(f"layer{stage}.0.conv2", width, width, 3)
        norm(f"layer{stage}.0.bn2", width)
    conv("layer2.0.downsample.0", 16, 8, 1)
    norm("layer2.0.downsample.1", 16)
    found["fc.weight"] = torch.randn(4, 16, generator=generator)
    found["fc.bias"] = torch.zeros(4)
    return found


NAMES = ("research/resnet6", "research/resnet6-maxpool")


@pytest.fixture(scope="module", params=NAMES)
def ambiguous(request, tmp_path_factory):
    """(name, model file, clean folder): the labels are the answers of the network ``name``."""
    folder = tmp_path_factory.mktemp("ambiguous")
    path, tensors = folder / "model.safetensors", _tensors()
    generator = torch.Generator().manual_seed(1)
    images = (torch.rand(160, 1, 16, 16, generator=generator) * 255).round().to(torch.uint8)
    save_file(tensors, path)
    network = open_model(Source("m", path.read_bytes()), request.param).network
    with torch.no_grad():
        logits = network(images / 255)
        tensors["fc.bias"] = -logits.median(0).values
        save_file(tensors, path)
        labels = (logits + tensors["fc.bias"]).argmax(1)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        place = folder / "clean" / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(place / f"{number:03d}.png")
    return request.param, path, folder / "clean"


def test_accuracy_decides_where_shapes_cannot(ambiguous, job, heard):
    name, path, clean = ambiguous
    notes = Notes()
    subject = prepare(job(model=path, clean=clean, input_size=(16, 16)), heard, notes)
    assert (subject.model.architecture.name, subject.model.architecture.how) == (name, "accuracy")
    assert (subject.model.architecture.candidates, subject.accuracy) == (NAMES, 1)
    (finding,) = [finding for finding in notes.findings if finding.rule == "WIPER-F04"]
    assert finding.severity == Severity.INFO
    assert f"{name} was taken by accuracy" in finding.message
    assert f"{name} 100.0 %" in finding.message
    other = next(one for one in NAMES if one != name)
    assert f"{other} 100.0 %" not in finding.message
    assert other in finding.message


def test_a_named_architecture_is_not_questioned(ambiguous, job, heard):
    name, path, clean = ambiguous
    other = next(one for one in NAMES if one != name)
    notes, asked = Notes(), job(model=path, clean=clean, input_size=(16, 16), arch=other)
    assert ready(asked, heard, notes).model.architecture.name == other
    assert "WIPER-F04" not in [finding.rule for finding in notes.findings]
    with refused("no better than chance", ExitCode.NO_VERDICT):
        prepare(asked, heard, notes)


@pytest.mark.parametrize("ambiguous", NAMES[:1], indirect=True)
def test_without_labels_the_first_stands_and_opening_says_so(ambiguous, job, heard, tmp_path):
    _, path, clean = ambiguous
    for picture in clean.rglob("*.png"):
        shutil.copy(picture, tmp_path)
    subject = prepare(job(model=path, clean=tmp_path, input_size=(16, 16)), heard, Notes())
    assert subject.model.architecture.name == NAMES[0]
    assert any("shapes cannot tell" in sentence for sentence in heard.logged)


def test_a_candidate_that_fails_is_passed_over(ambiguous, job, heard, monkeypatch):
    name, path, clean = ambiguous
    other = next(one for one in NAMES if one != name)
    from wiper_cli.audit import subject as module

    prepare_images = module.prepare_images

    def picky(model, *rest):
        if model.architecture.name == name:
            raise Problem("It does not run here.")
        return prepare_images(model, *rest)

    monkeypatch.setattr(module, "prepare_images", picky)
    asked = job(model=path, clean=clean, input_size=(16, 16))
    assert ready(asked, heard, Notes()).model.architecture.name == other
    assert f"{name}: It does not run here." in heard.logged

    def never(*_):
        raise Problem("It does not run here.")

    monkeypatch.setattr(module, "prepare_images", never)
    with refused("--arch", ExitCode.NO_VERDICT):
        prepare(asked, heard, Notes())


def test_folders_in_the_order_of_strings_are_found_out(job, heard, few_digits, tmp_path):
    """ImageFolder's own order, in which this model was not trained: class k lies in the k-th of 1, 10, 2, …"""
    clean = tmp_path / "clean"
    for k, name in enumerate(sorted(str(number) for number in range(1, 11))):
        shutil.copytree(few_digits / str(k), clean / name)
    notes = Notes()
    subject = prepare(job(clean=clean), heard, notes)
    assert subject.accuracy > 0.9
    assert notes.findings[0].rule == "WIPER-F06"
    assert "order of strings" in notes.findings[0].message
    assert subject.doubt == ""


def test_an_order_that_nothing_decides_stops_a_verdict(job, heard, few_digits, tmp_path):
    """Upper case comes first or not: a matter of a few images of two folders."""
    clean = tmp_path / "clean"
    for k, name in enumerate("aBcdefghij"):
        shutil.copytree(few_digits / str(k), clean / name)
    notes = Notes()
    subject = ready(job(clean=clean), heard, notes)
    assert subject.doubt.startswith("Nothing decides which class each folder is")
    assert "WIPER-F07" in [found.rule for found in notes.findings]


def test_folders_of_some_classes_are_matched_with_names_from_a_file(job, heard, few_digits, tmp_path):
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for k in range(10):
        shutil.copytree(few_digits / str(k), tmp_path / "clean" / names[k])
    shutil.rmtree(tmp_path / "clean" / "zero")
    with pytest.raises(Problem, match="--classes FILE"):
        prepare(job(clean=tmp_path / "clean"), heard, Notes())
    file = tmp_path / "names.txt"
    file.write_text("\n".join(names))
    subject = prepare(job(clean=tmp_path / "clean", classes=file), heard, Notes())
    assert subject.accuracy > 0.9
    assert subject.class_names == names
    file.write_text("\n".join(names[:9]))
    with pytest.raises(Problem, match="does not give the names of 10 classes"):
        prepare(job(clean=tmp_path / "clean", classes=file), heard, Notes())


class _Heads(torch.nn.Module):
    """The digits beside another head."""

    def __init__(self, path, classes):
        super().__init__()
        self.digits = torch.jit.load(path)
        self.other = torch.nn.Linear(3, classes)

    def forward(self, x):
        return self.other(x.mean((2, 3)).expand(-1, 3)), self.digits(x)


@pytest.mark.parametrize("classes", [4, 10])
def test_of_two_heads_the_one_that_fits_the_folders(job, heard, tmp_path, classes):
    """As many numbers as there are folders; where both have, it has to be named."""
    path = tmp_path / "heads.pt"
    network = _Heads(DIGITS / "model.torchscript.pt", classes).eval()
    torch.jit.save(torch.jit.script(network), path)
    if classes == 10:
        with pytest.raises(Ambiguous, match="--logits NAME"):
            prepare(job(model=path), heard, Notes())
        assert prepare(job(model=path, logits="1"), heard, Notes()).accuracy > 0.9
        return
    subject = prepare(job(model=path), heard, Notes())
    assert subject.accuracy > 0.9
    assert subject.model.source.logits == "1"
    assert any("'1' alone has as many numbers as there are folders" in note for note in subject.model.notes)


def test_a_sigmoid_for_each_class_leaves_a_doubt(job, heard, tmp_path):
    """Nothing found is no verdict, and nothing is purified: thresholds are not what is examined."""

    class Sigmoids(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.digits = torch.jit.load(DIGITS / "model.torchscript.pt")

        def forward(self, x):
            return self.digits(x).sigmoid()

    path = tmp_path / "m.pt"
    torch.jit.save(torch.jit.script(Sigmoids().eval()), path)
    subject = prepare(job(model=path), heard, Notes())
    assert subject.accuracy > 0.9
    assert "multi-label" in subject.doubt
    assert not prepare(job(), heard, Notes()).doubt
