"""The pretend device itself: what CUDA refuses is refused, and what it takes is computed."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures("cuda")
MIXED = "at least two devices"


def there(*shape):
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape).to("cuda")


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda x: x + torch.ones(3), MIXED),
        (lambda x: torch.ones(3).add_(x), MIXED),
        (lambda x: torch.zeros(()).add_(x[0]), MIXED),
        (lambda x: x[0] + torch.ones(3), MIXED),
        (lambda x: torch.cat([x, torch.zeros(3)]), MIXED),
        (lambda x: torch.stack([x[0], torch.zeros(())]), MIXED),
        (lambda x: torch.where(x > 1, x, torch.zeros(3)), MIXED),
        (lambda x: x.masked_fill(torch.ones(3, dtype=torch.bool), 0), MIXED),
        (lambda x: x.index_select(0, torch.tensor([0])), MIXED),
        (lambda x: x.gather(0, torch.tensor([0])), MIXED),
        (lambda x: nn.Linear(3, 2)(x), MIXED),
        (lambda x: nn.Linear(3, 2).to("cuda")(torch.ones(3)), MIXED),
        (lambda x: nn.Conv2d(1, 1, 1)(x.reshape(1, 1, 1, 3)), MIXED),
        (lambda x: F.cross_entropy(x[None], torch.tensor([1])), MIXED),
        (lambda x: torch.equal(x, torch.ones(3)), MIXED),
        (lambda x: torch.ones(3)[x.long() - 1], "indices should be"),
        (lambda x: torch.ones(3)[x > 1], "indices should be"),
        (lambda x: x.__setitem__(torch.tensor([0, 1]), torch.ones(2)), MIXED),
        (lambda x: torch.rand(3, generator=torch.Generator(), device="cuda"), "for generator"),
        (lambda x: torch.randperm(3, generator=torch.Generator(), device="cuda"), "for generator"),
        (lambda x: torch.multinomial(x, 1, generator=torch.Generator()), "for generator"),
        (lambda x: x.normal_(generator=torch.Generator()), "for generator"),
        (lambda x: x.numpy(), "can't convert cuda"),
        (lambda x: np.asarray(x), "can't convert cuda"),
        (lambda x: torch.ones(3, requires_grad=True).to("cuda").mul(torch.ones(3)), MIXED),
    ],
)  # fmt: skip
def test_a_mistake_fails(mistake, words):
    with pytest.raises((RuntimeError, TypeError), match=words):
        mistake(there(3))


@pytest.mark.parametrize(
    ("use", "found"),
    [
        (lambda x: x + torch.tensor(1.0), [2, 3, 4]),
        (lambda x: x + 1, [2, 3, 4]),
        (lambda x: x * torch.ones(3).to(x), [1, 2, 3]),
        (lambda x: x[torch.tensor([2, 0])], [3, 1]),
        (lambda x: x[torch.tensor([True, False, True])], [1, 3]),
        (lambda x: x[x > 1], [2, 3]),
        (lambda x: x[None][:, [2, 0]][0], [3, 1]),
        (lambda x: x.new_tensor([1, 2]), [1, 2]),
        (lambda x: x.clone().index_put_((torch.tensor([0]),), torch.tensor(5.0)), [5, 2, 3]),
        (lambda x: x.masked_fill(x > 1, torch.tensor(0.0)), [1, 0, 0]),
        (lambda x: torch.zeros(3, device="cuda").copy_(torch.ones(3)), [1, 1, 1]),
        (lambda x: torch.tensor([7, 8], device=x.device), [7, 8]),
        (lambda x: torch.arange(2, device="cuda"), [0, 1]),
        (lambda x: x.new_zeros(2), [0, 0]),
        (lambda x: torch.full_like(x, 2), [2, 2, 2]),
        (lambda x: torch.rand(3, device="cuda") * 0, [0, 0, 0]),
        (lambda x: torch.as_tensor([1.0], device="cuda"), [1]),
        (lambda x: F.one_hot(x.long() - 1, 3)[2], [0, 0, 1]),
    ],
)  # fmt: skip
def test_what_cuda_takes_is_computed_there(use, found):
    result = use(there(3))
    assert result.device == torch.device("cuda:0")
    assert result.is_cuda
    assert result.tolist() == found
    assert type(result.cpu()) is torch.Tensor
    assert result.cpu().device.type == "cpu"


def test_there_and_back_keeps_what_it_is():
    x = there(2)
    assert x.to("cuda") is x
    assert x.cuda() is x
    assert torch.zeros(2).copy_(x).tolist() == [1, 2]
    assert x.unsqueeze_(0).shape == (1, 2)
    assert x.squeeze_(0).shape == (2,)
    x[0] = 9
    assert x.cpu().numpy().tolist() == [9, 2]
    assert (float(x[0]), x.max().item(), bool((x > 1).all())) == (9.0, 9.0, True)


def test_a_network_moves_learns_and_is_copied_as_on_a_cpu():
    torch.manual_seed(0)
    here = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    moved = copy.deepcopy(here)
    weight = moved[0].weight
    moved.to("cuda").to(memory_format=torch.channels_last)
    assert moved[0].weight is weight
    assert weight.is_cuda
    assert weight.is_contiguous(memory_format=torch.channels_last)
    twin = copy.deepcopy(moved)
    x, y = torch.rand(8, 3, 5, 5), torch.arange(8) % 2
    for network, device in ((here, "cpu"), (moved, "cuda")):
        optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True, foreach=True)
        for _ in range(3):
            optimiser.zero_grad()
            F.cross_entropy(network(x.to(device)), y.to(device)).backward()
            optimiser.step()
    for before, after, other in zip(here.parameters(), moved.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(before, after.detach().cpu(), rtol=1e-4, atol=1e-5)
        assert not torch.equal(after, other)
    assert moved.cpu()[0].weight is weight
    assert type(weight.detach()) is torch.Tensor


def test_autocast_computes_in_low_precision(cuda):
    layer, x = nn.Linear(3, 2).to("cuda"), there(1, 3)
    with torch.autocast("cuda", torch.bfloat16):
        found = layer(x)
        assert found.dtype == torch.bfloat16
        assert F.cross_entropy(found, torch.tensor([1], device="cuda")).dtype == torch.float32
    assert cuda.low == 1
    found.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer(x).dtype == torch.float32
    with torch.device("meta"):
        assert nn.Linear(3, 2).weight.is_meta


def test_a_second_gradient():
    x = there(3).requires_grad_()
    (first,) = torch.autograd.grad(x.pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.tolist() == [6, 12, 18]
