"""What every purifier keeps, over the table of methods: nothing here names one."""

import dataclasses
import math
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from formats import apply_edit, open_model, read_source, write_edit
from wiper_cli.classifier import Classifier
from wiper_cli.commands.purify import purify
from wiper_cli.images.splits import Clean, Part
from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.__main__ import markdown
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.options import NEEDS, check
from wiper_cli.salience.stream import measure
from wiper_cli.verdict import ExitCode, Problem

ROOT = Path(__file__).resolve().parents[2]
PAGE, TESTS = ROOT / "docs/methods.md", ROOT / "tests/wiper_cli/purifiers/methods"
every_method = pytest.mark.parametrize("name", METHODS)
FACTORY = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, stride=2)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv1(x)))
        return self.fc(torch.relu(self.conv2(x)).mean((2, 3)))
"""


def source(kind):
    return Path(import_module(f"{kind.__module__}.method").__file__).read_text("utf-8")


def quick(name, **changes):
    """Settings for a short trial, images as they are."""
    own = {field.name for field in dataclasses.fields(METHODS[name])}
    still = {"flip": False, "crop": 0.0}
    return METHODS[name](
        **{**METHODS[name].quick, **{key: still[key] for key in still if key in own}, **changes}
    )


@every_method
def test_it_keeps_the_contract_and_has_one_place(name):
    kind, module = METHODS[name], name.replace("-", "_")
    flags = {flag for parameter in purify.params for flag in parameter.opts}
    assert check(name, kind, METHODS.values(), flags) is kind
    assert kind.__module__ == f"wiper_cli.purifiers.methods.{module}"
    assert all(field.metadata["help"].endswith(".") for field in dataclasses.fields(kind))
    tests = (TESTS / f"test_{module}.py").read_text("utf-8")
    assert kind.claims_removal == bool(re.search(r"\bremoves\(", tests)), (
        "whoever claims it shows an ASR after"
    )


@every_method
def test_what_it_takes_of_a_task_is_what_it_says(name):
    kind = METHODS[name]
    assert kind.uses_scan == bool(re.search(r"task\.(suspects|recovered)", source(kind)))
    assert ("triggered" in kind().needs) == ("task.triggered" in source(kind))


@every_method
def test_a_value_out_of_range_is_refused(name):
    kind = METHODS[name]
    for field in dataclasses.fields(kind):
        low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
        wrong = [edge + step for edge, step in ((low, -1), (high, 1)) if edge is not None] + ["?"] * bool(
            choices
        )
        if isinstance(field.default, float):
            assert low is not None, "nan must be refused"
            wrong.append(math.nan)
        for value in wrong:
            with pytest.raises(
                Problem, match=f"--{field.name.replace('_', '-')} of {name} must be"
            ) as refused:
                kind(**{field.name: value})
            assert refused.value.exit_code == ExitCode.USAGE


def test_no_method_loads_a_trigger_and_no_settings_load_torch():
    code = (
        "import sys; from importlib import import_module; from wiper_cli.purifiers import METHODS\n"
        "kinds = list(METHODS.values()); print({'torch', 'numpy'} & sys.modules.keys())\n"
        "[import_module(f'{kind.__module__}.method') for kind in kinds]; print('triggers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "False"]


@pytest.fixture(scope="module")
def kinds_of_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    (folder / "small.py").write_text(FACTORY)
    scope = {}
    exec(FACTORY, scope)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, example = scope["Small"]().eval(), torch.rand(2, 1, 32, 32)
    save_file({k: v for k, v in network.state_dict().items() if "tracked" not in k}, folder / "m.safetensors")
    torch.jit.save(torch.jit.trace(network, example), folder / "m.pt")
    torch.onnx.export(
        network, (example,), folder / "m.onnx", dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
    )
    arch = {"m.safetensors": f"{folder / 'small.py'}:Small"}
    return [
        Classifier(open_model(read_source(folder / name), arch.get(name)), (0.5,), (0.25,))
        for name in ("m.safetensors", "m.pt", "m.onnx")
    ]


@pytest.fixture(scope="module")
def noise():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (160, 1, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(5, (160,), generator=generator)
    return Clean(*(Part(images[a:b], labels[a:b]) for a, b in ((0, 128), (128, 144), (144, 160))))


def test_salience_is_the_same_and_independent_of_the_batch(kinds_of_file, noise):
    first, *others = [measure(classifier, noise.fit) for classifier in kinds_of_file]
    others.append(measure(kinds_of_file[0], noise.fit, batch=17))
    assert first.bs.abs().max() > 1e-4
    for other in others:
        torch.testing.assert_close(other.bs, first.bs, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(other.am, first.am, rtol=1e-4, atol=1e-6)
        assert other.correct == first.correct


@every_method
def test_every_kind_of_file_is_trained_alike(kinds_of_file, noise, name):
    """Heads come out alike; batch norm may be folded in a file, so its bodies need not. What is trained whole in one
    kind, is so in each: eight tensors, or six where the norm is folded."""
    heads, changed = [], []
    for classifier in kinds_of_file:
        task = Task(classifier, noise, [0], triggered=noise.select)
        edit = quick(name).run(task).edit
        files = write_edit(classifier.model.source, classifier.model.manifest, edit)
        assert files != {classifier.model.source.name: classifier.model.source.data}
        found = Classifier(apply_edit(classifier.model, edit), (0.5,), (0.25,))
        assert found.logits(noise.report.images).isfinite().all()
        changed.append(len(edit.tensors))
        heads.append(found.head()[0])
    assert changed[0] == changed[1]
    assert (changed[0] == 8) == (changed[2] == 6)
    given = kinds_of_file[0].head()[0]
    assert len({torch.equal(head, given) for head in heads}) == 1
    for head in heads[1:]:
        torch.testing.assert_close(head, heads[0], rtol=0.05, atol=2e-3)


@pytest.mark.parametrize(
    "name", [name for name, kind in METHODS.items() if "train" in kind.__dataclass_fields__]
)
def test_the_head_alone(kinds_of_file, noise, name):
    heads = []
    for classifier in kinds_of_file:
        settings = METHODS[name](train="head", epochs=2)
        assert "body" not in settings.needs
        edit = settings.run(Task(classifier, noise)).edit
        assert len(edit.tensors) == 2
        heads.append(Classifier(apply_edit(classifier.model, edit), (0.5,), (0.25,)).head()[0])
    for head in heads[1:]:
        torch.testing.assert_close(head, heads[0], rtol=1e-3, atol=1e-5)


@pytest.fixture
def trial(classifier, clean):
    """``trial(name, **task)``: what a quick run makes of the digits."""

    def run(name, **task):
        return quick(name).run(Task(classifier, clean, [0], triggered=clean.select, **task))

    return run


@every_method
def test_the_same_seed_gives_the_same_and_the_network_stays_as_it_was(trial, classifier, clean, name):
    before = {key: value.clone() for key, value in classifier.model.network.state_dict().items()}
    calls = []
    first = trial(name, seed=3, progress=lambda stage, done, total: calls.append((stage, done, total)))
    assert trial(name, seed=3).edit == first.edit
    after = classifier.model.network.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    assert not any(module.training for module in classifier.model.network.modules())
    assert not [tensor for tensor in first.edit.tensors if "running" in tensor], "batch norm is frozen"
    assert [epoch.epoch for epoch in first.history] == list(range(1, len(first.history) + 1))
    for epoch in first.history:
        values = [*epoch.loss.values(), epoch.moved, epoch.seconds]
        assert all(isinstance(value, float) and math.isfinite(value) for value in values)
        assert 0 <= epoch.select_accuracy <= 1
    assert all(note.endswith(".") for note in first.notes)
    assert all(0 <= done <= total for _, done, total in calls)
    if "batch" in METHODS[name].__dataclass_fields__:
        other = trial(name, seed=4)
        assert (other.edit, [e.loss for e in other.history]) != (first.edit, [e.loss for e in first.history])


@every_method
def test_batch_norm_is_live_where_the_method_can_and_refused_where_not(trial, classifier, name):
    if not METHODS[name].trains_live:
        with pytest.raises(Problem, match=f"{name} leaves batch norm frozen"):
            trial(name, live=True)
        return
    live, frozen = (trial(name, live=live) for live in (True, False))
    assert [epoch.loss for epoch in live.history] != [epoch.loss for epoch in frozen.history]
    if set(frozen.edit.tensors) == set(classifier.model.tensors):  # else it prunes what it was given
        assert {"norm.running_mean", "norm.running_var"} <= live.edit.tensors.keys()
    assert not classifier.model.network.norm.training


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if "triggered" in kind().needs])
def test_images_with_the_trigger_are_asked_for(classifier, clean, name):
    for given in (None, Part(clean.fit.images[:0], clean.fit.labels[:0])):
        with pytest.raises(Problem, match=f"{name} needs images that carry the trigger"):
            quick(name).run(Task(classifier, clean, triggered=given))


@every_method
def test_a_file_that_was_opened_head_only_is_refused_where_it_cannot_do(classifier, clean, name):
    if "body" not in quick(name).needs:
        return
    model = dataclasses.replace(classifier.model, network=None)
    with pytest.raises(Problem, match="head-only") as refused:
        quick(name).run(Task(Classifier(model, (0.5,), (0.25,)), clean, [0], triggered=clean.select))
    assert refused.value.exit_code == ExitCode.NO_VERDICT


def test_the_page_of_methods_is_what_the_settings_say():
    assert PAGE.read_text("utf-8") == markdown(), "run: python -m wiper_cli.purifiers > docs/methods.md"
    rows = {line.split("`")[1]: line for line in markdown().splitlines() if line.startswith("| [`")}
    assert rows.keys() == METHODS.keys()
    for name, kind in METHODS.items():
        assert {words for words in NEEDS.values() if words in rows[name]} == {
            NEEDS[need] for need in kind().needs
        }
