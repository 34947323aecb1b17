"""The product's work on a CUDA device, pretended where there is none: whoever forgets where a tensor lies fails."""

import math

import pytest
import torch

from formats import apply_edit
from triggers.families.badnet import BadNet
from wiper_cli.audit.measure import Stamper, measure
from wiper_cli.audit.requests import PlanRequest, PurifyRequest, ScanRequest, VerifyRequest
from wiper_cli.audit.stories.purify import purify
from wiper_cli.audit.stories.scan import plan, scan
from wiper_cli.audit.stories.verify import verify
from wiper_cli.classifier import Classifier
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.detectors import DETECTORS, PROBES
from wiper_cli.images.splits import Clean, Part
from wiper_cli.progress import silent
from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.machinery.training import NetworkStudent
from wiper_cli.salience import METRICS
from wiper_cli.salience.stream import measure as salience
from wiper_cli.tables import load
from wiper_cli.verdict import Verdict

pytestmark = pytest.mark.gpu
DIGITS = example_folder()
KINDS = {kind.name: kind for kind in (*DETECTORS.values(), *(load(place) for place, _ in PROBES.values()))}


@pytest.fixture
def there():
    """``there(classifier)``: the same on the device."""

    def move(one):
        return Classifier(one.model, one.mean, one.std, "cuda")

    return move


@pytest.mark.parametrize("name", KINDS)
def test_a_detector(planted, part, there, name):
    settings = KINDS[name](**KINDS[name].quick)
    images = Clean(part(24, 1), part(24, 2), part(6, 3))
    found = settings.run(there(planted("square")), images, silent, 5)
    assert found.ran
    assert math.isfinite(found.statistic)
    for one in found.recovered:
        assert all(value.device.type == "cpu" for value in one.parameters.values())


def test_a_detector_finds_there_what_it_finds_here(planted, part, there):
    settings = DETECTORS["square-probe"](**DETECTORS["square-probe"].quick)
    images = Clean(part(24, 1), part(24, 2), part(6, 3))
    here, found = (
        settings.run(one, images, silent, 5) for one in (planted("square"), there(planted("square")))
    )
    assert found.statistic == pytest.approx(here.statistic, rel=0.05)
    assert (found.suspects, found.fired) == (here.suspects, True)


def test_salience(classifier, clean, there):
    here, found = salience(classifier, clean.fit), salience(there(classifier), clean.fit)
    torch.testing.assert_close(found.bs.cpu(), here.bs, rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(found.am.cpu(), here.am, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric(classifier, clean, there, name):
    moved, some = there(classifier), clean.select
    features, logits = moved.features(some.images[:30])
    own = METRICS[name].settings
    head = features, logits, some.labels[:30].to("cuda"), moved.head()[0]
    assert METRICS[name](*head, own and own(**own.quick)).cpu().isfinite().all()


def test_a_student_works_in_low_precision_with_channels_last(classifier, clean, there):
    seen = []
    student = NetworkStudent(there(classifier))
    network = student.network.network
    network.conv2.register_forward_hook(lambda module, given, found: seen.append(found.dtype))
    logits = student.logits(clean.fit.images[:4].to("cuda").float() / 255)
    assert seen == [torch.bfloat16]
    assert logits.dtype == torch.float32
    assert network.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert not network.conv2.weight.is_contiguous()
    assert not classifier.model.network.conv2.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_a_method(classifier, clean, there, name, live):
    if live and not METHODS[name].trains_live:
        return
    fit = Part(clean.fit.images[:160], clean.fit.labels[:160])
    few = Clean(fit, clean.select, clean.report)
    settings = METHODS[name](**METHODS[name].quick)
    purified = settings.run(Task(there(classifier), few, [0], triggered=clean.select, live=live))
    assert all(math.isfinite(value) for epoch in purified.history for value in epoch.loss.values())
    assert purified.edit.tensors
    edited = Classifier(apply_edit(classifier.model, purified.edit), (0.5,), (0.25,), "cuda")
    assert edited.logits(clean.report.images).cpu().isfinite().all()


@pytest.mark.parametrize("file", ["model.safetensors", "model.torchscript.pt", "model.onnx"])
def test_a_scan(job, file):
    answer = scan(
        job(ScanRequest, model=DIGITS / file, device="cuda", detectors=("square-probe",), effort="quick")
    )
    assert answer.verdict is Verdict.SUSPICIOUS
    assert answer.detection["suspects"][0] == 0


@pytest.mark.parametrize("file", ["model.safetensors", "model.torchscript.pt", "model.onnx"])
@pytest.mark.parametrize("train", ["all", "head"])
def test_a_purification(job, file, train):
    method = METHODS["fine-tuning"](train=train, epochs=1)
    request = job(
        PurifyRequest, model=DIGITS / file, device="cuda", method=method, targets=(0,), max_rounds=1
    )
    answer = purify(request)
    assert answer.edit.tensors


def test_a_plan_and_an_explanation(job, few_digits):
    request = job(PlanRequest, device="cuda", detectors=("square-probe",), effort="quick")
    assert "square-probe" in str(plan(request).plan)
    assert scan(job(ScanRequest, device="cuda", explain=few_digits / "3")).explanation


def test_a_verification(job):
    request = job(VerifyRequest, device="cuda", triggers=("badnet",), target=0)
    assert verify(request)


def test_a_measurement(classifier, clean, there):
    stampers = [Stamper.of(BadNet(size=2), 0)]
    here = measure(classifier, clean.report, stampers)
    found = measure(there(classifier), clean.report, stampers)
    assert found.triggers[0].asr.value == pytest.approx(here.triggers[0].asr.value, abs=0.02)
    assert found.acc.value == pytest.approx(here.acc.value, abs=0.02)
