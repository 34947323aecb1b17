import copy

import torch

from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.methods.fine_tuning import FineTuning


def test_repairs_a_damaged_head(trained, opened, clean, rates):
    network = copy.deepcopy(trained)
    with torch.no_grad():
        network.fc.weight[3:6] = 0
    damaged = Classifier(opened(network), (0.5,), (0.25,))
    result = FineTuning(train="head").run(Task(damaged, clean))
    assert rates(damaged, clean)[0] < 0.8
    assert rates(damaged, clean, result.edit)[0] > 0.9
    assert set(result.edit.tensors) == {"fc.weight", "fc.bias"}


def test_whole_network_and_determinism(classifier, clean):
    settings = FineTuning(epochs=1, flip=False)
    first, second = (settings.run(Task(classifier, clean, seed=seed)) for seed in (0, 0))
    other = settings.run(Task(classifier, clean, seed=1))
    assert first.edit == second.edit
    assert first.edit != other.edit
    assert len(first.edit.tensors) == 8
    assert set(first.history[0].loss) == {"cross_entropy"}
