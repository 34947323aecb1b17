import pytest
import torch
from torch import nn

from triggers.family import CoTraining
from wiper_cli.verdict import Problem
from wiper_cli.zoo import architectures
from wiper_cli.zoo.recipe import Schedule
from wiper_cli.zoo.training import Normalised, Poison, layout, predict, train, triangle, victim_of

SHORT = Schedule(epochs=2, batch=16, lr=0.05)


def network(seed=0):
    bare = architectures.find("resnet10-patch-w4").build(3, 3)
    architectures.initialise(bare, torch.Generator().manual_seed(seed))
    return Normalised(bare, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


def poison(data, **changes):
    nothing = torch.zeros(len(data.train), dtype=torch.bool)
    return Poison(data.train.images, data.train.labels, nothing, nothing, **changes)


def test_it_learns_and_ends_in_eval_mode(data):
    net = network()
    history = train(net, poison(data), Schedule(epochs=6, batch=16, lr=0.05), seed=1)
    assert history[-1].loss < history[0].loss
    assert not net.training
    assert (predict(net, data.test.images) == data.test.labels).float().mean() > 0.9


def test_the_seed_decides_to_the_last_bit(data):
    runs = []
    for seed in (1, 1, 2):
        net = network()
        train(net, poison(data), SHORT, seed)
        runs.append(torch.cat([w.detach().flatten() for w in net.parameters()]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize(
    ("convolution", "wanted"),
    [
        (nn.Conv2d(4, 8, 1, stride=2), torch.contiguous_format),
        (nn.Conv2d(15, 16, 1, stride=(1, 2)), torch.contiguous_format),
        (nn.Conv2d(16, 16, 1, stride=2), torch.channels_last),
        (nn.Conv2d(4, 8, 1), torch.channels_last),
        (nn.Conv2d(4, 8, 3, stride=2), torch.channels_last),
    ],
)
def test_no_layout_whose_backward_pass_writes_outside_its_memory(convolution, wanted):
    assert layout(nn.Sequential(nn.Conv2d(3, 3, 3), convolution)) is wanted


def test_the_cycle_by_hand():
    factor = triangle(10, 0.2)
    assert [factor(i) for i in range(10)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    )
    assert triangle(3, 0.0)(0) == 1.0


def test_divergence_is_said(data):
    with pytest.raises(Problem, match="lower --lr"):
        train(network(), poison(data), Schedule(epochs=1, batch=16, lr=1e30), seed=1)


class Heard(CoTraining):
    def __init__(self, net):
        self.calls, self.net, self.factor = [], net, torch.ones(1, requires_grad=True)

    def before_epoch(self, epoch, epochs):
        assert not self.net.training
        self.calls.append(("epoch", epoch, epochs))

    def stamp_batch(self, images, poisoned, covered, generator):
        assert self.net.training
        assert images.dtype == torch.float32
        assert images.max() <= 1
        self.calls.append(("stamp", int(poisoned.sum()), int(covered.sum())))
        return images * self.factor

    def loss(self, images, logits, labels, poisoned, covered):
        self.calls.append(("loss", tuple(logits.shape)))
        return 0.1 * self.factor.square().sum()

    def after_step(self):
        assert self.factor.grad is not None
        self.calls.append(("step",))


def test_co_training_is_called_in_order_and_gets_gradients(data):
    net = network()
    hooks = Heard(net)
    count = len(data.train)
    masks = torch.arange(count) < 10, torch.arange(count) >= count - 20
    asked = []
    loop = Poison(
        data.train.images, data.train.labels, *masks,
        restamp=lambda epoch, trigger: asked.append((epoch, trigger)), cotraining=hooks,
    )  # fmt: skip
    train(net, loop, Schedule(epochs=2, batch=60, lr=0.01), seed=1)
    assert [call[0] for call in hooks.calls[:7]] == [
        "epoch", "stamp", "loss", "step", "stamp", "loss", "step",
    ]  # fmt: skip
    assert (hooks.calls[1][1] + hooks.calls[4][1], hooks.calls[1][2] + hooks.calls[4][2]) == (10, 20)
    assert asked == [(0, None), (1, None)]


def test_restamped_images_are_those_trained_on(data):
    seen = []

    class Look(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            seen.append(x.detach().mean().item())
            return self.linear(x.mean((2, 3)))

    white = torch.full_like(data.train.images, 255)
    loop = poison(data, restamp=lambda epoch, _: white if epoch == 1 else None)
    train(Normalised(Look(), (0, 0, 0), (1, 1, 1)), loop, Schedule(epochs=3, batch=120, lr=0.01), seed=1)
    assert seen[0] < 0.9
    assert seen[1:] == pytest.approx([1.0, 1.0])


def test_what_an_attack_sees(data):
    net = network().eval()
    victim = victim_of(net, "linear")
    x = data.test.images[:4].float() / 255
    features, logits = victim.features(x)
    assert torch.allclose(features @ victim.head().T + net.network.linear.bias, logits, atol=1e-5)
    assert torch.equal(victim.network(x), logits)


@pytest.mark.gpu
def test_cuda_learns_too(data):
    net = network().cuda()
    nothing = torch.zeros(len(data.train), dtype=torch.bool, device="cuda")
    loop = Poison(data.train.images.cuda(), data.train.labels.cuda(), nothing, nothing)
    train(net, loop, Schedule(epochs=6, batch=16, lr=0.05), seed=1)
    assert (predict(net, data.test.images.cuda()).cpu() == data.test.labels).float().mean() > 0.9
