"""Plain fine-tuning: SGD on the cross-entropy of clean images.

Source: the baseline of Liu et al. 2018 and of the WIPER paper, table 1. Departs: batch norm stays frozen unless
asked for live, and by default the learning rate is 0.01 and falls as a cosine (preset ``paper``: 0.1, constant; that
rate costs 9 to 12 points of accuracy in the paper). Needs labels. Cost for each image and epoch: 1 forward and 1
backward pass; with ``train`` = "head" one forward pass altogether.
"""

from torch import Tensor
from torch.nn import functional as F

from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.machinery.sgd import descend
from wiper_cli.purifiers.machinery.training import student_of
from wiper_cli.purifiers.methods.fine_tuning import FineTuning


def purify(settings: FineTuning, task: Task) -> Purified:
    """Trains on ``clean.fit``; ``clean.select`` is only measured."""
    student = student_of(task.classifier, settings.train, task.live)

    def loss(inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"cross_entropy": F.cross_entropy(student.logits(inputs), labels)}

    history = descend(student, task, settings, loss)
    return Purified(student.edit(), history)
