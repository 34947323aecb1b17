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


def test_removes_the_backdoor_at_a_high_rate(removes):
    purified = removes(FineTuning(epochs=20, batch=32, lr=0.05, flip=False, crop=0.0), 0.3, 0.93)
    assert (len(purified.edit.tensors), set(purified.history[0].loss)) == (8, {"cross_entropy"})
