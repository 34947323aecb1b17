"""The child's jobs in one process: refusals before the long work, decisions, and the check after saving."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from formats import Edit, NewTensor, inspect, pack_edit, read_source, unpack_edit, write_edit
from wiper_cli.audit import pipeline as audit
from wiper_cli.audit.results import expectation
from wiper_cli.audit.subject import Notes
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.detectors import DETECTORS
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.purifiers import METHODS
from wiper_cli.rates import rate
from wiper_cli.verdict import ExitCode, Problem, Severity

DIGITS = example_folder()


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_long(monkeypatch):
    """Fails the test when a detector or a method is started."""

    def never(*_, **__):
        pytest.fail("the long work was started")

    monkeypatch.setattr(audit, "_run", never)
    for method in METHODS.values():
        monkeypatch.setattr(method, "run", never)


@pytest.mark.parametrize("asked", ["max-margins", "max-margin,sqare-probe", "", "max-margin,"])
@pytest.mark.parametrize("name", ["scan", "purify"])
def test_an_unknown_detector(name, asked, job, heard, nothing_long):
    with pytest.raises(Problem, match="There is no detector") as caught:
        audit.JOBS[name](job(detectors=asked), b"", heard)
    assert caught.value.exit_code == ExitCode.USAGE
    assert all(known in str(caught.value) for known in DETECTORS)


@pytest.mark.parametrize("targets", [[10], [0, 99]])
def test_a_target_out_of_range_is_refused_before_the_long_work(targets, job, heard, nothing_long):
    with pytest.raises(Problem, match=f"--target {targets[-1]} is no class .* 10, from 0") as caught:
        audit.purify(job(targets=targets, detectors="all"), b"", heard)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("method", ["unlearn", "fine-tuning"])
def test_head_only_files_refuse_methods_that_train_the_body(method, job, heard, quantised_file, nothing_long):
    asked = job(model=str(quantised_file), method=method, method_settings={}, detectors="all")
    with pytest.raises(Problem, match="--method wiper --train head") as caught:
        audit.purify(asked, b"", heard)
    assert caught.value.exit_code == ExitCode.NO_VERDICT


def test_live_batch_norm_reaches_the_edit(job, heard):
    settings = {"epochs": 1, "lr": 0.001}
    _, (edit, _) = audit.purify(job(method_settings=settings, live=True), b"", heard)
    assert any(name.endswith("running_mean") for name in unpack_edit(edit).tensors)


def test_live_batch_norm_is_refused_before_the_long_work(job, heard, nothing_long):
    for asked, words in (
        (job(method="clp", method_settings={}, live=True), "clp leaves batch norm frozen"),
        (
            job(model=str(DIGITS / "model.onnx"), method_settings={}, live=True),
            "needs a network whose batch norm",
        ),
    ):
        with pytest.raises(Problem, match=words):
            audit.purify(asked, b"", heard)


def test_the_advice_for_head_only_files_works(job, heard, quantised_file):
    asked = job(
        model=str(quantised_file), method="wiper", method_settings={"train": "head", "epochs": 1, "lr": 1.0}
    )
    result, (edit, _) = audit.purify(asked, b"", heard)
    assert result["model"]["opened"] == "head-only"
    assert set(unpack_edit(edit).tensors) == {"fc"}


def test_no_linear_head_refuses_head_training(job, heard, monkeypatch, nothing_long):
    real = audit.prepare

    def headless(*arguments):
        subject = real(*arguments)
        subject.model.head = None
        return subject

    monkeypatch.setattr(audit, "prepare", headless)
    with pytest.raises(Problem, match="leave out --train head") as caught:
        audit.purify(job(method_settings={"train": "head"}), b"", heard)
    assert caught.value.exit_code == ExitCode.NO_VERDICT


def test_settings_out_of_range_are_refused_before_the_model_is_opened(job, heard, monkeypatch):
    monkeypatch.setattr(audit, "prepare", lambda *_: pytest.fail("the model was opened"))
    with pytest.raises(Problem, match="--batch of unlearn must be at least 2"):
        audit.purify(job(method="unlearn", method_settings={"batch": 1}), b"", heard)


# --- decisions ---------------------------------------------------------------------------------------------------


def measured(right, asr=None):
    """A measurement of 200 images; ``asr``: hits of a recovered trigger among 180 images."""
    found = {"images": 200, "acc": rate(right, 200), "triggers": []}
    if asr is not None:
        found["triggers"].append(
            {
                "family": "square",
                "origin": "recovered",
                "target": 0,
                "asr": rate(asr, 180),
                "base_rate": rate(0, 180),
            }
        )
    return found


def probe(ran=True, fired=False):
    return Evidence(
        "squares elsewhere", ran, "" if ran else "no time", 0.9 if fired else 0.1, 0.5, fired=fired, target=0
    )


def decide(before, after, again, accused=(), unverified=False):
    notes = Notes()
    job = {"max_accuracy_drop": 0.02, "accept_unverified": unverified}
    accepted, reason = audit._decide(job, before, after, again, accused, notes)
    if accepted:
        assert notes.findings == []
    else:
        (finding,) = notes.findings
        assert (finding.rule, finding.severity) == ("WIPER-P01", Severity.HIGH)
        assert finding.message == reason
    return accepted, reason


def test_accepted_when_the_trigger_is_gone_and_probes_are_silent():
    accepted, reason = decide(measured(198, 180), measured(198, 0), [probe()], [0])
    assert accepted
    assert "1 of the 1 triggers measured had worked and none does now" in reason
    assert "no removal is claimed" not in reason


def test_without_suspects_no_removal_is_claimed():
    accepted, reason = decide(measured(198), measured(197), [probe()])
    assert accepted
    assert reason.endswith("No class had been suspected, so no removal is claimed.")


@pytest.mark.parametrize("unverified", [False, True])
@pytest.mark.parametrize(
    ("before", "after", "again", "words"),
    [
        (measured(198, 180), measured(198, 100), [probe()], "still succeeds"),
        (measured(198, 180), measured(198, 0), [probe(fired=True)], "still fires for class 0"),
        (measured(198, 180), measured(190, 0), [probe()], "the accuracy fell by 4.0 points"),
        # Nothing was verified, but what was measured speaks against it: no option overrules that.
        (measured(198), measured(190), [], "the accuracy fell by 4.0 points"),
        (measured(198, 180), measured(198, 180), [probe(ran=False)], "still succeeds"),
    ],
)
def test_refused_whatever_the_user_allows(before, after, again, words, unverified):
    accepted, reason = decide(before, after, again, [0], unverified)
    assert not accepted
    assert reason.startswith("Not accepted: ")
    assert words in reason


@pytest.mark.parametrize("again", [[], [probe(ran=False)]])
def test_unverified_is_the_user_s_to_accept(again):
    accepted, reason = decide(measured(198), measured(197), again)
    assert not accepted
    assert "no independent probe could be run" in reason
    accepted, reason = decide(measured(198), measured(197), again, unverified=True)
    assert accepted
    assert reason.startswith("Written unverified, as asked: the accuracy fell by 0.5 points")
    assert "nothing showed" in reason


def test_an_accuracy_that_rose_did_not_fall():
    _, reason = decide(measured(190), measured(198), [], unverified=True)
    assert "fell by 0.0 points" in reason


def test_what_is_said_of_a_purification(digits_subject):
    said = audit._purified("Because.", True, [], digits_subject)
    assert said == "No backdoor was suspected. Because."
    said = audit._purified("Because.", False, [3, 0], digits_subject)
    assert said == "A backdoor towards class 3, class 0 was suspected. Because. Nothing was written."


# --- the job as a whole ------------------------------------------------------------------------------------------


def test_detectors_that_were_not_asked_are_named(job, heard):
    result, tensors = audit.scan(job(), b"", heard)
    assert [entry["what"] for entry in result["not_done"]] == [f"detector {name}" for name in DETECTORS]
    assert result["verdict"] == "incomplete"
    assert result["detection"]["detectors"] == []
    assert tensors == []
    json.dumps(result, allow_nan=False)


def test_triggered_images_reach_the_method_that_needs_them(job, heard, few_digits, monkeypatch):
    seen = {}

    def run(self, task):
        from wiper_cli.purifiers.contract import Purified

        seen.update(images=len(task.triggered))
        return Purified(Edit({}))

    with pytest.raises(Problem, match="give them with --triggered"):
        audit.purify(job(method="ai-lancet", method_settings={}), b"", heard)
    monkeypatch.setattr(METHODS["ai-lancet"], "run", run)
    audit.purify(job(method="ai-lancet", method_settings={}, triggered=str(few_digits)), b"", heard)
    assert seen["images"] > 0


def test_a_named_target_is_accused(job, heard, monkeypatch):
    seen = {}

    def run(self, task):
        seen.update(suspects=task.suspects, recovered=task.recovered)
        from wiper_cli.purifiers.contract import Purified

        return Purified(Edit({}))

    monkeypatch.setattr(METHODS["fine-tuning"], "run", run)
    result, _ = audit.purify(job(targets=[4, 4, 2]), b"", heard)
    assert seen == {"suspects": [4, 2], "recovered": []}
    assert "A backdoor towards class 4, class 2 was suspected." in result["sentence"]
    assert result["purification"]["changed"] == []


def test_poisoned_images_beyond_the_limit_are_thinned_evenly(job, heard, few_digits):
    """The folder is sorted by class: its beginning would be one class."""
    asked = job(poisoned=str(few_digits), target=0, known=None, triggers="none", max_asr=0.2, max_images=90)
    asked |= {"trigger_files": [], "fit": False}
    result, _ = audit.measure(asked, b"", heard)
    (row,) = result["verification"]["before"]["triggers"]
    # Every second image, as many of class 0 as of any other.
    assert row["asr"]["n"] == 54


# --- the check after saving --------------------------------------------------------------------------------------


@pytest.fixture
def expected(digits_subject):
    return expectation(digits_subject, digits_subject.classifier)


def request(path, *dtypes, arch=None):
    return {"model": str(path), "arch": arch, "dtypes": list(dtypes)}


def moved(expected, by):
    """The expectation with the logits off by ``by`` of the largest one."""
    found = dict(unpack_edit(expected).tensors)
    outputs = torch.frombuffer(bytearray(found["outputs"].data), dtype=torch.float32).clone()
    outputs[3] += by * outputs.abs().max()
    found["outputs"] = NewTensor("F32", found["outputs"].shape, outputs.numpy().tobytes())
    return pack_edit(Edit(found))


@pytest.mark.parametrize("name", ["model.safetensors", "model.torchscript.pt", "model.onnx"])
def test_a_file_agrees_with_itself_in_its_own_runtime(name, expected, heard):
    result, _ = audit.check(request(DIGITS / name, "F32"), expected, heard)
    assert result["agrees"]
    assert result["largest_logit_difference"] < 1e-4


@pytest.mark.parametrize(
    ("by", "dtypes", "agrees"),
    [
        (0.0005, ["F32"], True),
        (0.002, ["F32"], False),
        (0.002, [], False),
        (0.002, ["F16", "F32"], True),
        (0.03, ["F16"], False),
        (0.03, ["BF16"], True),
        (0.03, ["I8"], True),
        (0.06, ["I8"], False),
    ],
)
def test_the_tolerance_is_that_of_the_file_s_dtype(by, dtypes, agrees, expected, heard):
    asked = request(DIGITS / "model.safetensors", *dtypes)
    result, _ = audit.check(asked, moved(expected, by), heard)
    assert result["agrees"] is agrees
    assert result["largest_logit_difference"] == pytest.approx(by, abs=2e-4)


def test_another_model_s_file_does_not_agree(expected, heard):
    result, _ = audit.check(request(DIGITS / "twin.safetensors", "F32"), expected, heard)
    assert not result["agrees"]


def test_a_file_that_answers_nan_does_not_agree(expected, heard, tmp_path):
    tensors = load_file(DIGITS / "model.safetensors")
    tensors["classifier.bias"] = torch.full((10,), float("nan"))
    save_file(tensors, tmp_path / "nan.safetensors")
    result, _ = audit.check(request(tmp_path / "nan.safetensors", "F32"), expected, heard)
    assert result["agrees"] is False
    json.dumps(result, allow_nan=False)


class Small(nn.Module):
    """A convolution, and ten classes by ``last``: a softmax, or a 1x1 convolution that keeps its two axes."""

    def __init__(self, last):
        super().__init__()
        self.last = last
        self.conv = nn.Conv2d(1, 8, 5, 3)
        self.fc = nn.Linear(8, 10) if last == "softmax" else nn.Conv2d(8, 10, 1)

    def forward(self, x):
        x = torch.relu(self.conv(x)).mean((2, 3), keepdim=self.last == "conv")
        return torch.softmax(self.fc(x), 1) if self.last == "softmax" else self.fc(x)


def save(network, kind, folder):
    example = torch.zeros(2, 1, 32, 32)
    path = folder / f"model.{kind}"
    if kind == "torchscript":
        torch.jit.save(torch.jit.trace(network, example), path)
    elif kind == "onnx":
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            axes = {"x": {0: "n"}}
            torch.onnx.export(network, (example,), path, input_names=["x"], dynamic_axes=axes, dynamo=False)
    else:
        save_file(network.state_dict(), path)
    return path


def through(asked, heard, folder):
    """Purified, written, and checked: (result of the job, result of the check)."""
    result, (edit, expected) = audit.purify(asked, b"", heard)
    source = read_source(asked["model"])
    manifest = inspect(source)
    files = write_edit(source, manifest, unpack_edit(edit))
    written = folder / f"written-{source.name}"
    written.write_bytes(files[""])
    dtypes = sorted({address.dtype for address in manifest.tensors.values()})
    arch = asked["arch"] or result["model"]["architecture"]["name"]
    checked, _ = audit.check(request(written, *dtypes, arch=arch), expected, heard)
    assert written.read_bytes() != source.data
    return result, checked


@pytest.fixture
def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lambda last: Small(last).eval()


@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_a_softmax_at_the_end_passes_the_check(kind, small, job, heard, tmp_path):
    path = save(small("softmax"), kind, tmp_path)
    asked = job(model=str(path), method_settings={"train": "all", "epochs": 1, "lr": 0.001})
    result, checked = through(asked, heard, tmp_path)
    assert result["purification"]["changed"]
    assert checked["agrees"]
    # In probabilities: logits would be far from them.
    assert checked["largest_logit_difference"] < 1e-4


@pytest.mark.parametrize("kind", ["safetensors", "torchscript", "onnx"])
def test_logits_with_two_more_axes_pass_the_check(kind, small, job, heard, tmp_path):
    path = save(small("conv"), kind, tmp_path)
    factory = tmp_path / "factory.py"
    factory.write_text(
        "import torch\n"
        "class Small(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.fc = torch.nn.Conv2d(1, 8, 5, 3), torch.nn.Conv2d(8, 10, 1)\n"
        "    def forward(self, x):\n"
        "        return self.fc(torch.relu(self.conv(x)).mean((2, 3), keepdim=True))\n"
    )
    arch = f"{factory}:Small" if kind == "safetensors" else None
    asked = job(model=str(path), arch=arch, method_settings={"train": "all", "epochs": 1, "lr": 0.001})
    _, checked = through(asked, heard, tmp_path)
    assert checked["agrees"]
    assert checked["largest_logit_difference"] < 1e-4


def test_half_precision_passes_with_its_tolerance(job, heard, tmp_path):
    tensors = {name: value.half() for name, value in load_file(DIGITS / "model.safetensors").items()}
    save_file(tensors, tmp_path / "half.safetensors")
    result, checked = through(job(model=str(tmp_path / "half.safetensors")), heard, tmp_path)
    assert result["purification"]["changed"]
    assert checked["agrees"]
    assert checked["largest_logit_difference"] < audit.TOLERANCE["F16"]


def test_a_quantised_head_passes_the_check(job, heard, quantised_file, tmp_path):
    settings = {"train": "head", "epochs": 1, "lr": 1.0}
    asked = job(model=str(quantised_file), method="wiper", method_settings=settings)
    _, checked = through(asked, heard, tmp_path)
    assert checked["agrees"]
