import numpy as np
import torch

from formats import apply_edit
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.machinery.layers import convolutions
from wiper_cli.purifiers.methods.clp import CLP
from wiper_cli.purifiers.methods.clp.method import kept, lipschitz


def test_norms_equal_those_of_numpy_on_the_folded_kernel(classifier):
    network = classifier.network.network
    with torch.no_grad():
        network.norm.running_var.mul_(3)
        gain = (network.norm.weight / (network.norm.running_var + network.norm.eps).sqrt()).numpy()
    first, second = convolutions(classifier)
    kernel = network.conv1.weight.numpy()
    expected = [
        np.linalg.svd(k.reshape(1, 9) * g, compute_uv=False)[0] for k, g in zip(kernel, gain, strict=True)
    ]
    np.testing.assert_allclose(lipschitz(classifier, first).numpy(), expected, rtol=1e-5)
    kernel = network.conv2.weight.numpy()
    expected = [np.linalg.svd(k.reshape(12, 9), compute_uv=False)[0] for k in kernel]
    np.testing.assert_allclose(lipschitz(classifier, second).numpy(), expected, rtol=1e-5)


def test_outstanding_norms_are_removed():
    norms = torch.tensor([1.0, 1.1, 0.9, 1.0, 5.0])
    limit = np.mean(norms.numpy()) + np.std(norms.numpy(), ddof=1)
    assert kept(norms, 1.0).tolist() == [float(n <= limit) for n in norms.tolist()] == [1, 1, 1, 1, 0]
    assert (kept(norms, 3.0).tolist(), kept(norms[:1], 0.0).tolist()) == ([1] * 5, [1])


def test_a_loud_channel_is_silenced_with_its_bias(classifier, clean):
    network = classifier.network.network
    with torch.no_grad():
        network.norm.weight[4] *= 40
        network.conv2.weight[7] *= 40
    purified = CLP().run(Task(classifier, clean))
    assert purified.notes == ("2 of 36 channels were removed.",)
    after = apply_edit(classifier.model, purified.edit).network
    for tensor, at in (
        (after.norm.weight, 4), (after.norm.bias, 4), (after.conv2.weight, 7), (after.conv2.bias, 7)
    ):  # fmt: skip
        assert not tensor[at].any()
    assert set(purified.edit.tensors) == {"norm.weight", "norm.bias", "conv2.weight", "conv2.bias"}


def test_looks_at_no_image(classifier):
    assert CLP(deviations=0.5).run(Task(classifier, None)).edit
    assert CLP().needs == {"body"}


def test_removes_the_backdoor(removes):
    removes(CLP(deviations=1.0), 0.3, 0.85)
