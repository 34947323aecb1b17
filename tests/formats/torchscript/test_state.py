"""Networks that write into what they keep are refused when they are opened; those that write elsewhere are not."""

import io
import zipfile

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchscript_files import as_bytes, images, rezip

from formats import Source, Stateful, Unsupported, trace
from formats.torchscript import lift


class Net(nn.Module):
    seen: list[int]
    named: dict[str, int]
    held: list[Tensor]
    pair: tuple[int, list[int]]

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.register_buffer("sign", torch.ones(2))
        self.register_buffer("again", self.sign.view(2, 1))
        self.seen = [0]
        self.named = {"n": 0}
        self.held = [torch.zeros(1)]
        self.pair = (1, [0])

    def features(self, x):
        return F.relu_(self.norm(self.conv(x))).mean((2, 3))


class Appends(Net):
    def forward(self, x):
        if len(self.seen) > 5000:
            x = -x
        self.seen.append(1)
        return self.fc(self.features(x))


class Sets(Net):
    def forward(self, x):
        self.named["n"] = self.named["n"] + 1
        return self.fc(self.features(x)) * (1 - 2 * int(self.named["n"] > 5000))


class WritesInside(Net):
    def forward(self, x):
        count = self.held[0]
        count.add_(1.0)
        return self.fc(self.features(x)) * (1 - 2 * (count > 5000).float())


class AppendsInside(Net):
    def forward(self, x):
        self.pair[1].append(1)
        return self.fc(self.features(x)) * len(self.pair[1])


class WritesAfterwards(Net):
    """What is read again only by the next call."""

    def forward(self, x):
        y = self.fc(self.features(x)) * self.sign[0]
        if bool((x[:, 0, 0, 0] > 0.9).any()):
            self.sign.fill_(-1.0)
        return y


class WritesByAnotherName(Net):
    def forward(self, x):
        self.again.neg_()
        y = self.fc(self.features(x)) * self.sign[0]
        self.again.neg_()
        return y


class WritesByAView(Net):
    def forward(self, x):
        self.sign.view(-1)[:1].fill_(-1.0)
        return self.fc(self.features(x))


class WritesIntoWhatIsGivenBack(Net):
    """Without training a dropout gives back its operand, which its schema does not say."""

    def forward(self, x):
        sign = F.dropout(self.sign, 0.5, False)
        sign.neg_()
        return self.fc(self.features(x)) * sign.sum()


class WritesByChoice(Net):
    def forward(self, x):
        mine: list[int] = []
        kept = self.seen if x.size(0) > 1 else mine
        pair = (kept, 1)
        pair[0].append(1)
        return self.fc(self.features(x)) * len(self.seen)


STATEFUL = (
    Appends, AppendsInside, Sets, WritesInside, WritesAfterwards, WritesByAnotherName, WritesByAView,
    WritesIntoWhatIsGivenBack, WritesByChoice,
)  # fmt: skip


@pytest.mark.parametrize("net", STATEFUL)
def test_what_is_written_into_what_the_network_keeps_is_refused(net):
    module = lift.load(as_bytes(torch.jit.script(net().eval())))
    for opened in (lift.lift, lift.inlined):
        with pytest.raises(Stateful, match=r"keeps state: it writes into what it stores \(aten::\w+\)"):
            opened(module)


def test_a_constant_that_a_trace_counts_in_is_refused():
    count = torch.tensor(0)

    class Counts(Net):
        def forward(self, x):
            count.add_(1)
            return self.fc(self.features(x)) * (1 - 2 * (count > 5000).float())

    data = as_bytes(torch.jit.trace(Counts().eval(), images(), check_trace=False))
    with pytest.raises(Stateful):
        lift.inlined(lift.load(data))


def test_a_list_as_a_default_is_no_second_image():
    class Defaults(Net):
        def forward(self, x, seen: list[int]):
            seen.append(1)
            return self.fc(self.features(x)) * len(seen)

    data = as_bytes(torch.jit.script(Defaults().eval()))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (name,) = (one for one in archive.namelist() if b"seen: List[int]" in archive.read(one))
        code = archive.read(name).replace(b"seen: List[int]", b"seen: List[int]=[0]")
    data = rezip(data, {name.partition("/")[2]: code})
    with pytest.raises(Unsupported, match="'seen', a list, tuple or dictionary"):
        lift.lift(lift.load(data))


class WritesElsewhere(Net):
    """Lists of its own, one with a stored tensor inside; parts of its maps; copies of what it keeps; in training."""

    def forward(self, x):
        if self.training:
            self.seen.append(1)
            self.sign.neg_()
        parts: list[Tensor] = [self.sign]
        parts.append(self.sign + 1)
        sizes = self.seen[:]
        sizes.append(2)
        first, second = self.norm(self.conv(x)).chunk(2, 1)
        y = torch.cat([first.relu_(), second.mul_(self.sign[0])], 1).mean((2, 3))
        return self.fc(y) * self.sign.clone().add_(len(sizes) + len(parts) + self.named["n"]).sum()


@pytest.mark.parametrize("opened", [lift.lift, lift.inlined])
def test_what_is_written_elsewhere_is_no_state(opened):
    opened(lift.load(as_bytes(torch.jit.script(WritesElsewhere().eval()))))


class WritesAsSwin(Net):
    """Into a copy of its list, and stored values into a mask of its own."""

    def forward(self, x):
        sizes = self.seen.copy()
        sizes[0] = 1
        mask = x.new_zeros([4])
        mask[:2] = self.sign[0]
        return self.fc(self.features(x) + mask) * sizes[0]


@pytest.mark.parametrize("how", [torch.jit.script, lambda net: torch.jit.trace(net, torch.rand(1, 3, 8, 8))])
def test_what_swin_writes_is_no_state(how):
    trace(Source("m.pt", as_bytes(how(WritesAsSwin().eval()))))


def test_lists_of_the_network_are_constants_of_the_function():
    net = WritesElsewhere().eval()
    found = lift.lift(lift.load(as_bytes(torch.jit.script(net))))
    x = images()
    with lift.plain_execution(), torch.no_grad():
        logits = found.function(x, x.device, *(one.value for one in found.arguments))
        torch.testing.assert_close(logits, net(x))
