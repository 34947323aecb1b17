"""One network in three kinds of file: the same salience, and every method trains through each of them."""

import pytest
import torch
from safetensors.torch import save_file

from formats import apply_edit, open_model, read_source
from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Clean, Part
from wiper_cli.progress import silent
from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.contract import Task
from wiper_cli.salience.stream import measure

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
SHORT = {
    "unlearn": {"epochs": 1, "min_steps": 2, "warmup": 1, "flip": False},
    "wiper": {"epochs": 1, "last_layers": 2},
    "fine-tuning": {"epochs": 1, "flip": False},
    "fine-pruning": {"epochs": 1, "flip": False},
    "kd": {"epochs": 1, "flip": False},
    "nad": {"epochs": 1, "teacher_epochs": 1, "flip": False},
    "i-bau": {"epochs": 1, "min_steps": 2, "fixed_point": 2},
    "clp": {"deviations": 1.0},
    "prune": {"last_layers": 3},
    "ft-sam": {"epochs": 1, "rho": 0.1, "flip": False},
    "fst": {"epochs": 1, "flip": False},
    "anp": {"steps": 2, "lr": 3.0, "budget": 1.0, "flip": False},
    "rnp": {"epochs": 2, "lr": 3.0, "budget": 1.0, "flip": False},
    "sau": {"epochs": 1, "inner_steps": 2},
    "npd": {"epochs": 1},
    "bti-dbf": {
        "rounds": 1,
        "epochs": 1,
        "generator_epochs": 1,
        "mask_epochs": 2,
        "generator_width": 4,
        "flip": False,
    },
    "ban": {"epochs": 1, "mask_epochs": 2, "flip": False},
    "tsbd": {"epochs": 1, "min_steps": 2, "unlearn_epochs": 2, "share": 0.2, "flip": False},
    "unit": {"steps": 3, "epochs": 1, "flip": False},
    "lmr": {"epochs": 1, "unlearn_epochs": 2, "share": 0.1, "train": "all", "flip": False},
}
#: Tensors that a method changes at least; else 6, all of them in the folded file.
LEAST = {"clp": 2, "prune": 3, "anp": 2, "rnp": 2, "npd": 1}
#: Methods that leave the head alone.
BODIES = ("clp", "anp", "rnp", "npd")


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
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
    return {
        name: Classifier(open_model(read_source(folder / name), arch.get(name)), (0.5,), (0.25,))
        for name in ("m.safetensors", "m.pt", "m.onnx")
    }


@pytest.fixture(scope="module")
def noise():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (160, 1, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(5, (160,), generator=generator)
    return Clean(*(Part(images[a:b], labels[a:b]) for a, b in ((0, 128), (128, 144), (144, 160))))


def test_salience_is_the_same_and_independent_of_the_batch(classifiers, noise):
    first, *others = [measure(classifier, noise.fit) for classifier in classifiers.values()]
    others.append(measure(classifiers["m.safetensors"], noise.fit, batch=17))
    assert first.bs.abs().max() > 1e-4
    for other in others:
        torch.testing.assert_close(other.bs, first.bs, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(other.am, first.am, rtol=1e-4, atol=1e-6)
        assert other.correct == first.correct


@pytest.mark.parametrize("method", SHORT)
def test_every_method_trains_the_whole_network(classifiers, noise, method):
    """Heads come out alike; batch norm may be folded in a file, so its bodies need not."""
    heads = []
    for classifier in classifiers.values():
        settings = METHODS[method](**SHORT[method])
        result = settings.run(Task(classifier, noise, [0], [], silent, 0))
        assert len(result.edit.tensors) >= LEAST.get(method, 6)
        model = apply_edit(classifier.model, result.edit)
        heads.append(Classifier(model, (0.5,), (0.25,)).head()[0])
        assert torch.equal(heads[-1], classifier.head()[0]) == (method in BODIES)
    for head in heads[1:]:
        torch.testing.assert_close(head, heads[0], rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("method", ["wiper", "fine-tuning"])
def test_training_the_head_alone(classifiers, noise, method):
    heads = []
    for classifier in classifiers.values():
        result = METHODS[method](train="head", epochs=2).run(Task(classifier, noise))
        assert len(result.edit.tensors) == 2
        heads.append(Classifier(apply_edit(classifier.model, result.edit), (0.5,), (0.25,)).head()[0])
    for head in heads[1:]:
        torch.testing.assert_close(head, heads[0], rtol=1e-3, atol=1e-5)
