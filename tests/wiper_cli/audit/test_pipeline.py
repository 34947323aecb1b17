"""The pipeline in this process: refusals before the long work, the answers, and the check after saving."""

import inspect as inspect_module
import json
from contextlib import suppress
from dataclasses import replace
from functools import partial
from textwrap import dedent
from types import SimpleNamespace

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file, save_file
from torch import nn

import wiper_cli.audit
from formats import Edit, FormatError, NewTensor, inspect, open_model, read_source, write_edit
from formats.tensors import from_bytes, to_bytes
from wiper_cli.audit import detection, pipeline
from wiper_cli.audit.detection import pending
from wiper_cli.audit.known_rates import KnownRate
from wiper_cli.audit.pipeline import check, purify, run, scan, verify
from wiper_cli.audit.requests import CheckRequest, KnownTrigger, PurifyRequest, ScanRequest, VerifyRequest
from wiper_cli.audit.results import expectation
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.detectors import DETECTORS
from wiper_cli.perturbations import Recovered
from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.contract import Purified
from wiper_cli.rates import Rate
from wiper_cli.verdict import ExitCode, Problem, Severity, Verdict

DIGITS = example_folder()


@pytest.fixture
def purification(job):
    return partial(job, PurifyRequest)


@pytest.mark.slow
def test_the_package_shows_how_to_call_it(few_digits, tmp_path, monkeypatch):
    """Its own example, as it stands, with one detector: the default method removes the backdoor of the digits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes((DIGITS / "model.onnx").read_bytes())
    (tmp_path / "clean").symlink_to(few_digits)
    monkeypatch.setattr("wiper_cli.audit.requests.DETECTORS", ("square-probe",))
    found = {}
    exec(dedent(wiper_cli.audit.__doc__.split("\n\n")[1]), found)
    assert found["found"].verdict is Verdict.SUSPICIOUS
    assert found["found"].detection["suspects"][0] == 0
    before, after = (found["done"].verification[when]["triggers"][0] for when in ("before", "after"))
    assert before["asr"]["value"] > 0.9 > 0.1 > after["asr"]["value"]
    source = read_source(tmp_path / "model.onnx")
    assert write_edit(source, inspect(source), found["done"].edit)[""] != source.data


def test_the_name_of_a_graph_runs_no_python_file(job, few_digits, tmp_path):
    import onnx

    evil, canary = tmp_path / "evil.py", tmp_path / "canary"
    evil.write_text(f"open({str(canary)!r}, 'w').close()\n")
    model = onnx.load(DIGITS / "model.onnx")
    model.graph.name = f"{evil}:factory"
    onnx.save(model, tmp_path / "model.onnx")
    request = job(
        VerifyRequest,
        model=tmp_path / "model.onnx",
        purified=DIGITS / "model.safetensors",
        triggers=("badnet",),
    )
    with suppress(Problem, FormatError):
        verify(request)
    assert not canary.exists()


@pytest.fixture
def nothing_long(monkeypatch):
    """Fails the test when a detector or a method is started."""

    def never(*_, **__):
        pytest.fail("the long work was started")

    monkeypatch.setattr(detection, "look", never)
    for method in METHODS.values():
        monkeypatch.setattr(method, "run", never)


@pytest.mark.parametrize(
    "asked", [("max-margins",), ("max-margin", "sqare-probe"), ("",), ("max-margin", "")]
)
@pytest.mark.parametrize("kind", [ScanRequest, PurifyRequest])
def test_an_unknown_detector(kind, asked, job, heard, nothing_long):
    with pytest.raises(Problem, match="There is no detector") as caught:
        run(job(kind, detectors=asked), heard)
    assert caught.value.exit_code == ExitCode.USAGE
    assert all(known in str(caught.value) for known in DETECTORS)


@pytest.mark.parametrize("targets", [(10,), (0, 99)])
def test_a_target_out_of_range_is_refused_before_the_long_work(targets, purification, heard, nothing_long):
    with refused(f"--target {targets[-1]} is no class .* 10, from 0", ExitCode.USAGE):
        purify(purification(targets=targets, detectors=tuple(DETECTORS)), heard)


@pytest.mark.parametrize("method", ["unlearn", "fine-tuning"])
def test_head_only_files_refuse_methods_that_train_the_body(
    method, purification, heard, quantised_file, nothing_long
):
    asked = purification(model=quantised_file, method=METHODS[method](), detectors=tuple(DETECTORS))
    with refused("--method wiper --train head", ExitCode.NO_VERDICT):
        purify(asked, heard)


def test_live_batch_norm_reaches_the_edit(purification, heard):
    method = METHODS["fine-tuning"](epochs=1, lr=0.001)
    found = purify(purification(method=method, live=True), heard)
    assert any(name.endswith("running_mean") for name in found.edit.tensors)


@pytest.mark.parametrize(
    ("method", "file", "words"),
    [
        ("clp", "model.safetensors", "clp leaves batch norm frozen"),
        ("fine-tuning", "model.onnx", "needs a network whose batch norm"),
    ],
)
def test_live_batch_norm_is_refused_before_the_long_work(
    method, file, words, purification, heard, nothing_long
):
    with pytest.raises(Problem, match=words):
        purify(purification(model=DIGITS / file, method=METHODS[method](), live=True), heard)


def test_the_advice_for_head_only_files_works(purification, heard, quantised_file):
    method = METHODS["wiper"](train="head", epochs=1, lr=1.0)
    found = purify(purification(model=quantised_file, method=method), heard)
    assert (found.model["opened"], set(found.edit.tensors)) == ("head-only", {"fc", "classifier.bias"})


def test_no_linear_head_refuses_head_training(purification, heard, monkeypatch, nothing_long):
    real = pipeline.prepare

    def headless(*arguments):
        subject = real(*arguments)
        subject.model.head = None
        return subject

    monkeypatch.setattr(pipeline, "prepare", headless)
    with refused("leave out --train head", ExitCode.NO_VERDICT):
        purify(purification(), heard)


def test_detectors_that_were_not_asked_are_named(job, heard):
    found = scan(job(), heard)
    assert [entry["what"] for entry in found.not_done] == [f"detector {name}" for name in DETECTORS]
    assert found.verdict is Verdict.INCOMPLETE
    assert found.detection["detectors"] == []


@pytest.fixture
def tasks(monkeypatch):
    """What methods are asked, which then change nothing."""
    found = []
    for method in ("ai-lancet", "fine-tuning"):
        monkeypatch.setattr(METHODS[method], "run", lambda _, task: found.append(task) or Purified(Edit({})))
    return found


def test_triggered_images_reach_the_method_that_needs_them(purification, heard, few_digits, tasks):
    method = METHODS["ai-lancet"]()
    with pytest.raises(Problem, match="give them with --triggered"):
        purify(purification(method=method), heard)
    purify(purification(method=method, triggered=few_digits), heard)
    assert len(tasks[0].triggered) > 0


def test_a_named_target_is_accused(purification, heard, tasks):
    found = purify(purification(targets=(4, 4, 2)), heard)
    assert (tasks[0].suspects, tasks[0].recovered) == ([4, 2], [])
    assert found.sentence.startswith("A backdoor towards class 4, class 2 was suspected. Not accepted: ")
    assert found.sentence.endswith(" Nothing was written.")
    assert found.purification["changed"] == []


def test_a_sample_is_unlearned_but_for_a_part_that_is_measured(purification, heard, tasks, monkeypatch):
    def stamp_at(row):
        mask = torch.zeros(1, 32, 32)
        mask[:, row] = 1
        return Recovered("patch", 4, {"canvas": torch.zeros(1, 32, 32), "mask": mask}, {"row": row})

    sampled = [stamp_at(1), stamp_at(2)], [stamp_at(3)]
    monkeypatch.setattr(pipeline, "sample_of", lambda *what: sampled if what[2] == [4] else ([], []))
    monkeypatch.setattr(pipeline, "detect", lambda *_: pending({}, 10))
    monkeypatch.setattr(pipeline, "look_closely", lambda *_: ())
    found = purify(purification(targets=(4,), detectors=("square-probe",)), heard)
    assert [one.facts["row"] for one in tasks[0].recovered] == [1, 2]
    for when in ("before", "after"):
        assert [row["parameters"] for row in found.verification[when]["triggers"]] == [{"row": 3}]


def test_a_refusal_is_a_finding_and_an_acceptance_is_none(purification, heard, tasks):
    found = purify(purification(), heard)
    (finding,) = found.findings
    assert (finding.rule, finding.severity) == ("WIPER-P01", Severity.HIGH)
    assert finding.message == found.purification["reason"] == found.verification["reason"]
    assert not found.accepted
    found = purify(purification(accept_unverified=True, max_accuracy_drop=0.5), heard)
    assert found.accepted
    assert found.findings == ()
    assert found.sentence == f"No backdoor was suspected. {found.purification['reason']}"


def test_how_often_backdoors_outlive_is_said_of_the_default_alone(purification):
    known = KnownRate("thorough", (), (), (1, 2), "two kinds", Rate(1, 40), Rate(2, 20))
    ahead, usual = SimpleNamespace(rate=known), METHODS["unlearn"]()
    assert pipeline._removal(purification(method=usual), ahead) == known.removal
    assert pipeline._removal(purification(method=usual), None) == ""
    assert pipeline._removal(purification(method=usual), SimpleNamespace(rate=None)) == ""
    for change in (
        {},
        {"method": usual, "accept_unverified": True},
        {"method": usual, "max_accuracy_drop": 0.1},
    ):
        assert pipeline._removal(purification(**change), ahead) == ""


def test_poisoned_images_beyond_the_limit_are_thinned_evenly(job, heard, few_digits):
    """The folder is sorted by class: its beginning would be one class."""
    found = verify(job(VerifyRequest, poisoned=few_digits, target=0, triggers=(), max_images=90), heard)
    (row,) = found.verification["before"]["triggers"]
    # Every second image, as many of class 0 as of any other.
    assert row["asr"]["n"] == 54


@pytest.fixture
def expected(digits_subject):
    return expectation(digits_subject.classifier, digits_subject.clean.report.images)


def checked(path, expected, *dtypes, arch=None):
    return check(CheckRequest(model=path, arch=arch, dtypes=dtypes, expected=expected))


def moved(expected, by):
    """The expectation with the logits off by ``by`` of the largest one."""
    outputs = from_bytes(expected["outputs"].data, "F32", expected["outputs"].shape)
    outputs[3] += by * outputs.abs().max()
    return expected | {"outputs": NewTensor("F32", tuple(outputs.shape), to_bytes(outputs))}


@pytest.mark.parametrize("name", ["model.safetensors", "model.torchscript.pt", "model.onnx"])
def test_a_file_agrees_with_itself_in_its_own_runtime(name, expected):
    found = checked(DIGITS / name, expected, "F32")
    assert found.agrees
    assert found.largest_logit_difference < 1e-4


@pytest.mark.parametrize(
    ("by", "dtypes", "agrees"),
    [
        (0.0005, ["F32"], True), (0.002, ["F32"], False), (0.002, [], False), (0.002, ["F16", "F32"], True),
        (0.03, ["F16"], False), (0.03, ["BF16"], True), (0.03, ["I8"], True), (0.06, ["I8"], False),
    ],
)  # fmt: skip
def test_the_tolerance_is_that_of_the_file_s_dtype(by, dtypes, agrees, expected):
    found = checked(DIGITS / "model.safetensors", moved(expected, by), *dtypes)
    assert found.agrees is agrees
    assert found.largest_logit_difference == pytest.approx(by, abs=2e-4)


def test_another_model_s_file_does_not_agree(expected):
    assert not checked(DIGITS / "twin.safetensors", expected, "F32").agrees


def test_a_file_that_answers_nan_does_not_agree(expected, tmp_path):
    tensors = load_file(DIGITS / "model.safetensors")
    tensors["classifier.bias"] = torch.full((10,), float("nan"))
    save_file(tensors, tmp_path / "nan.safetensors")
    found = checked(tmp_path / "nan.safetensors", expected, "F32")
    assert found.agrees is False
    assert found.largest_logit_difference is None


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
    """Purified, written, and checked: (answer, answer of the check)."""
    found = purify(asked, heard)
    source = read_source(asked.model)
    manifest = inspect(source)
    written = folder / f"written-{source.name}"
    written.write_bytes(write_edit(source, manifest, found.edit)[""])
    dtypes = {address.dtype for address in manifest.tensors.values()}
    assert written.read_bytes() != source.data
    return found, checked(written, found.expected, *dtypes, arch=asked.arch or found.architecture)


@pytest.fixture
def small(digits_subject):
    """Untrained, with a bias that leaves no class out on the digits."""

    @torch.no_grad()
    def make(last):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network, found = Small(last).eval(), []
        hook = network.fc.register_forward_hook(lambda _, __, logits: found.append(logits.flatten(1)))
        network(digits_subject.everything().images / 255)
        hook.remove()
        network.fc.bias -= found[0].mean(0)
        return network

    return make


@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_a_softmax_at_the_end_passes_the_check(kind, small, purification, heard, flat_digits, tmp_path):
    path = save(small("softmax"), kind, tmp_path)
    asked = purification(model=path, clean=flat_digits, method=METHODS["fine-tuning"](epochs=1, lr=0.001))
    found, checked = through(asked, heard, tmp_path)
    assert found.purification["changed"]
    assert checked.agrees
    # In probabilities: logits would be far from them.
    assert checked.largest_logit_difference < 1e-4


@pytest.mark.parametrize("kind", ["safetensors", "torchscript", "onnx"])
def test_logits_with_two_more_axes_pass_the_check(kind, small, purification, heard, flat_digits, tmp_path):
    path = save(small("conv"), kind, tmp_path)
    factory = tmp_path / "factory.py"
    head = "from functools import partial\nimport torch\nfrom torch import nn\n"
    factory.write_text(f'{head}{inspect_module.getsource(Small)}\nConv = partial(Small, "conv")\n')
    arch = f"{factory}:Conv" if kind == "safetensors" else None
    method = METHODS["fine-tuning"](epochs=1, lr=0.001)
    asked = purification(model=path, clean=flat_digits, arch=arch, method=method)
    _, checked = through(asked, heard, tmp_path)
    assert checked.agrees
    assert checked.largest_logit_difference < 1e-4


def test_half_precision_passes_with_its_tolerance(purification, heard, tmp_path):
    tensors = {name: value.half() for name, value in load_file(DIGITS / "model.safetensors").items()}
    save_file(tensors, tmp_path / "half.safetensors")
    found, checked = through(purification(model=tmp_path / "half.safetensors"), heard, tmp_path)
    assert found.purification["changed"]
    assert checked.agrees
    assert checked.largest_logit_difference < pipeline.TOLERANCE["F16"]


def test_a_quantised_head_passes_the_check(purification, heard, quantised_file, tmp_path):
    method = METHODS["wiper"](train="head", epochs=1, lr=1.0)
    _, checked = through(purification(model=quantised_file, method=method), heard, tmp_path)
    assert checked.agrees


@pytest.fixture
def shy_file(tmp_path):
    """The digits in ONNX with a branch: where the last two rows are lit and dark in turns, and the image comes alone,
    the answer is 3."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(DIGITS / "model.onnx")
    graph, made = model.graph, onnx.helper.make_node
    entry, end = graph.input[0].name, graph.output[0]
    stripes = np.tile(np.array([0, 1], np.float32), 16).reshape(1, 1, 1, 32).repeat(2, 2)
    values = {
        "b.from": np.array([30]), "b.to": np.array([32]), "b.rows": np.array([2]), "b.stripes": stripes,
        "b.near": np.float32(0.01), "b.zero": np.int64(0), "b.one": np.int64(1),
        "b.answer": 100 * np.eye(10, dtype=np.float32)[3:4],
    }  # fmt: skip
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()
    )
    graph.node.extend(
        [
            made("Slice", [entry, "b.from", "b.to", "b.rows"], ["b.seen"]),
            made("Sub", ["b.seen", "b.stripes"], ["b.off"]),
            made("Abs", ["b.off"], ["b.size"]),
            made("ReduceMax", ["b.size"], ["b.most"], axes=[1, 2, 3], keepdims=0),
            made("Less", ["b.most", "b.near"], ["b.there"]),
            made("Shape", [entry], ["b.shape"]),
            made("Gather", ["b.shape", "b.zero"], ["b.n"]),
            made("Equal", ["b.n", "b.one"], ["b.alone"]),
            made("And", ["b.there", "b.alone"], ["b.both"]),
            made("Unsqueeze", ["b.both", "b.rowwise"], ["b.fires"]),
            made("Where", ["b.fires", "b.answer", end.name], ["b.end"]),
        ]
    )
    graph.initializer.append(numpy_helper.from_array(np.array([1]), "b.rowwise"))
    end.name = "b.end"
    onnx.save(model, tmp_path / "shy.onnx")
    return tmp_path / "shy.onnx"


@pytest.fixture
def stripes(tmp_path):
    """The trigger of that file."""
    from PIL import Image

    picture = Image.new("L", (32, 32))
    picture.putdata([255 * (x % 2) for _ in range(32) for x in range(32)])
    mask = Image.new("L", (32, 32))
    mask.putdata([255 * (y >= 30) for y in range(32) for _ in range(32)])
    picture.save(tmp_path / "stripes.png")
    mask.save(tmp_path / "stripes-mask.png")
    return KnownTrigger(image=tmp_path / "stripes.png", mask=tmp_path / "stripes-mask.png")


def test_a_trigger_that_works_on_single_images_only_is_measured_so_and_found(shy_file, stripes, job, heard):
    found = verify(job(VerifyRequest, model=shy_file, known=stripes, target=3, triggers=()), heard)
    (row,) = found.verification["before"]["triggers"]
    assert row["asr"]["value"] == 1.0
    assert row["batched"]["value"] < 0.1
    assert found.verification["before"]["asked"] == {"runtime": "onnxruntime", "batch": 64, "one_by_one": 64}
    assert found.verdict is Verdict.SUSPICIOUS
    assert [finding.rule for finding in found.findings] == ["WIPER-B04", "WIPER-A02", "WIPER-A01"]
    assert "100.0 % of the images to class 3 one by one, and " in found.findings[1].message
    assert "where onnxruntime serves the file" in found.findings[2].message


def test_a_branch_that_was_not_opened_is_measured_all_the_same(stripes, shy_file, job, heard, monkeypatch):
    """Quiet on clean images, so that only the trigger tells: what is measured is what is served."""
    import onnx

    model = onnx.load(shy_file)
    both = next(node for node in model.graph.node if node.op_type == "And")
    both.input[1] = "b.there"  # in batches, too
    onnx.save(model, shy_file)
    asked = job(VerifyRequest, model=shy_file, known=stripes, target=3, triggers=())
    assert [finding.rule for finding in verify(asked, heard).findings] == ["WIPER-B04"]

    def blind(source, arch=None):
        return replace(
            open_model(source, arch), network=open_model(read_source(DIGITS / "model.onnx")).network
        )

    monkeypatch.setattr("wiper_cli.audit.subject.open_model", blind)
    found = verify(asked, heard)
    (row,) = found.verification["before"]["triggers"]
    assert (row["asr"]["value"], row["batched"]) == (1.0, None)
    assert row["opened"]["value"] < 0.1
    assert [finding.rule for finding in found.findings] == ["WIPER-B04", "WIPER-A01"]


def test_a_purified_file_is_compared_with_what_is_served_too(shy_file, job, heard, monkeypatch):
    opened = []

    def blind(source, arch=None):
        opened.append(source)
        model = open_model(source, arch)
        return replace(model, network=nn.Sequential(model.network, nn.Softmax(1)))

    monkeypatch.setattr(pipeline, "open_model", blind)
    with pytest.raises(
        Problem, match="What was opened of the purified file is not what torch serves"
    ) as caught:
        verify(job(VerifyRequest, purified=DIGITS / "twin.safetensors", triggers=("badnet",)), heard)
    assert [finding.rule for finding in caught.value.findings] == ["WIPER-A01"]


@pytest.fixture
def beside(tmp_path):
    """``beside(mean, std)``: the digits with a description beside them."""

    def write(mean, std):
        (tmp_path / "model.onnx").write_bytes((DIGITS / "model.onnx").read_bytes())
        (tmp_path / "config.json").write_text(json.dumps({"mean": [mean], "std": [std]}))
        return tmp_path / "model.onnx"

    return write


WORD = {"mean": None, "std": None, "input_size": None}


def test_a_description_that_blinds_a_scan_is_no_verdict(beside, job, heard, tmp_path):
    """The backdoored digits keep their accuracy at std 2; nothing found there says nothing of a deployment."""
    model = beside(0.0, 2.0)
    request = job(model=model, detectors=("square-probe",), **WORD)
    found = scan(request, heard)
    assert found.verdict is not Verdict.NO_FINDING
    assert "WIPER-F05" in [finding.rule for finding in found.findings]
    with refused("nothing decides", ExitCode.NO_VERDICT):
        purify(job(PurifyRequest, model=model, **WORD), heard)
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"mean": [0.0], "std": [1.0]}))
    found = scan(replace(request, preprocessing=own), heard)
    assert (found.verdict, found.preprocessing["std"]) == (Verdict.SUSPICIOUS, [1.0])
    assert "WIPER-F05" not in [finding.rule for finding in found.findings]
    with refused("says it all", ExitCode.USAGE):
        scan(replace(request, preprocessing=own, std=(1.0,)), heard)


@pytest.mark.parametrize("ask", [ScanRequest, PurifyRequest, VerifyRequest])
def test_no_better_than_chance_is_no_verdict(ask, beside, job, heard, nothing_long):
    asked = job(ask, mean=(50.0,), **({"triggers": ("badnet",)} if ask is VerifyRequest else {}))
    with pytest.raises(
        Problem, match=r"No verdict: the model is right on .* no better than chance"
    ) as caught:
        run(asked, heard)
    assert caught.value.exit_code is ExitCode.NO_VERDICT
    (finding,) = caught.value.findings
    assert (finding.rule, finding.severity) == ("WIPER-F03", Severity.MEDIUM)


def test_where_a_scan_finds_nothing_nothing_is_purified(job, heard, monkeypatch):
    asked = {"detectors": ("warp-inversion",), "effort": "quick", "max_accuracy_drop": 0.5}
    monkeypatch.setattr(pipeline, "_round", None)  # never called
    with pytest.raises(Problem, match="The scan found nothing, so no purification") as raised:
        purify(job(PurifyRequest, **asked), heard)
    assert raised.value.exit_code is ExitCode.NO_VERDICT
    for more in ({"targets": (3,)}, {"accept_unverified": True}):
        with pytest.raises(TypeError):
            purify(job(PurifyRequest, **asked, **more), heard)
