"""Each rule on graphs that meet it and on honest ones; every variant of an architectural backdoor in both formats."""

import numpy as np
import pytest
import torch
from small_classifiers import CONV, DIGITS, MATMUL, branched, to_onnx, to_torchscript
from tiny_onnx import array, make_model, nodes
from torch import nn
from torchscript_files import as_bytes

from formats import Source, trace
from triggers.architectural import VARIANTS, implant
from triggers.families.badnet import BadNet
from wiper_cli import rules
from wiper_cli.graph.flow import Flow
from wiper_cli.graph.rules import audit
from wiper_cli.verdict import Severity

CLEAN = {
    "onnx conv": lambda: to_onnx(CONV),
    "onnx matmul": lambda: to_onnx(MATMUL),
    **{
        f"torchscript {how}": lambda how=how: to_torchscript(CONV, how)
        for how in ("traced", "scripted", "frozen")
    },
}
#: Rules that each variant meets as an error in a network of nine layers, in both kinds of file.
ERRORS = {
    "where": {"G01", "G02", "G03", "G05", "G06", "G08"},
    "arithmetic": {"G03", "G05", "G06", "G08"},
    "conv": {"G08"},
    "stem-logits": {"G03", "G05", "G06", "G08"},
    "stem-gate": {"G08"},
}


def met(data, name="m"):
    """Rule → hit."""
    return {hit.rule.removeprefix("WIPER-"): hit for hit in audit(Flow(trace(Source(name, data))))}


def errors(hits):
    return {rule for rule, hit in hits.items() if hit.error}


def of(chain, **held):
    return met(make_model(nodes(chain), {"w": array(0, 3, 4), **held}).SerializeToString())


@pytest.mark.parametrize("name", CLEAN)
def test_honest_networks_meet_no_rule(name):
    assert met(CLEAN[name]()) == {}


@pytest.mark.parametrize("name", ["model.onnx", "model.torchscript.pt"])
def test_the_example_meets_no_rule(name):
    assert met((DIGITS / name).read_bytes()) == {}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("kind", "name"), [("onnx", "model.onnx"), ("torchscript", "model.torchscript.pt")])
def test_every_architectural_backdoor_is_an_error(kind, name, variant):
    hits = met(implant(kind, (DIGITS / name).read_bytes(), variant, BadNet().placed(1, 32, 32), 7))
    assert errors(hits) >= ERRORS[variant]
    for hit in hits.values():
        assert hit.rule in rules.RULES
        assert hit.path
        assert hit.node in hit.path


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CLEAN)
def test_in_a_network_of_three_layers_each_is_seen_and_most_are_errors(name, variant):
    hits = met(branched(name.split()[0], CLEAN[name](), variant))
    assert errors(hits) >= ({"G03", "G05"} if variant in ("where", "arithmetic", "stem-logits") else set())
    assert "G08" in hits


def test_the_window_of_a_trigger_is_told_from_one_of_a_normalisation():
    small = of("Slice x a b axes > f0; ReduceMean f0 > f | axes=[2, 3], keepdims=0; MatMul f w > y",
               a=np.array([0, 0]), b=np.array([1, 2]), axes=np.array([2, 3]))  # fmt: skip
    assert small["G07"].severity == Severity.HIGH
    assert "3.1 % of it" in small["G07"].message
    channels = "; ".join(f"Gather x c{i} > g{i} | axis=1; Mul g{i} s > n{i}" for i in range(3))
    every = of(f"{channels}; Concat n0 n1 n2 > c | axis=1; Conv c k > a; GlobalAveragePool a > p; Flatten p > f; "
               "MatMul f w > y", s=np.float32(2), k=array(1, 3, 3, 1, 1),
               **{f"c{i}": np.array([i]) for i in range(3)})  # fmt: skip
    assert errors(every) == set()
    assert set(every) == {"G07"}


POOL = "Conv x k > a; GlobalAveragePool a > p; Flatten p > "
TAIL = "GlobalAveragePool b > p; Flatten p > f; MatMul f w > y"
KERNEL = {"k": array(1, 3, 3, 1, 1)}


@pytest.mark.parametrize(
    ("chain", "held", "expected"),
    [
        # A choice by each value of its own is an activation; by another value, or by a pooled one, it is none.
        ("Conv x k > a; Greater a zero > c; Exp a > e; Where c a e > b; GlobalAveragePool b > p; Flatten p > f; "
         "MatMul f w > y", {"zero": np.float32(0)}, set()),
        ("Conv x k > a; Conv x k > o; Greater o zero > c; Exp a > e; Where c a e > b; GlobalAveragePool b > p; "
         "Flatten p > f; MatMul f w > y", {"zero": np.float32(0)}, {"G01"}),
        (f"{POOL}g; Greater g zero > c; Exp g > e; Where c g e > f; MatMul f w > y", {"zero": np.float32(0)},
         {"G01", "G02"}),
        # Rounding as in training for quantisation, and rounding of pixels.
        ("Conv x k > a; Round a > b; GlobalAveragePool b > p; Flatten p > f; MatMul f w > y", {}, set()),
        ("Round x > r; Conv r k > a; GlobalAveragePool a > p; Flatten p > f; MatMul f w > y", {}, {"G02"}),
        # A cast by example.
        (f"CastLike x one > i; CastLike i w > r; Conv r k > b; {TAIL}", {"one": np.int32(1)}, {"G02"}),
        (f"Shape x > s; CastLike x s > i; CastLike i w > r; Conv r k > b; {TAIL}", {}, {"G02"}),
        (f"Conv x k > a; CastLike a k > r; CastLike r a > b; {TAIL}", {}, set()),
        # Whether a value is a number no activation asks.
        (f"Conv x k > a; Sqrt a > q; IsNaN q > c; Where c a q > b; {TAIL}", {}, {"G01", "G02"}),
        (f"Conv x k > a; IsInf a > c; Where c k2 a > b; {TAIL}", {"k2": array(2, 1, 3, 1, 1)}, {"G01", "G02"}),
        (f"Conv x k > a; Identity a > i; Equal a i > c; Where c a zero > b; {TAIL}", {"zero": np.float32(0)},
         {"G01", "G02"}),
        (f"Conv x k > a; Log a > q; Mul q two > r; Greater r zero > c; Where c a zero > b; {TAIL}",
         {"zero": np.float32(-9), "two": np.float32(2)}, {"G01", "G02"}),
        (f"Conv x k > a; Greater a zero > c; Log a > q; Where c q a > b; {TAIL}", {"zero": np.float32(0)}, set()),
        # The greatest of a value and a constant is a rectifier, of two values a comparison.
        ("Conv x k > a; Max a zero > b; GlobalAveragePool b > p; Flatten p > f; MatMul f w > y",
         {"zero": np.float32(0)}, set()),
        ("Conv x k > a; Conv a k > o; Max a o > b; GlobalAveragePool b > p; Flatten p > f; MatMul f w > y", {},
         {"G02"}),
        # An index that pixels make.
        (f"{POOL}f; ArgMax f > i | axis=1, keepdims=0; Gather table i > y | axis=0", {"table": array(3, 3, 4)},
         {"G01", "G02"}),
        # Two heads of one feature are averaged; a constant stands for a class; a factor is out of proportion.
        (f"{POOL}f; MatMul f w > u; MatMul f w2 > v; Add u v > y", {"w2": array(4, 3, 4)}, set()),
        (f"{POOL}f; MatMul f w > u; Add u one > y", {"one": np.array([0, 0, 9, 0], np.float32)}, {"G06"}),
        (f"{POOL}f; MatMul f w > u; Add u bias > y", {"bias": array(5, 4)}, set()),
        (f"{POOL}f; MatMul f w > u; Mul u much > y", {"much": np.float32(1e4)}, {"G06"}),
        (f"{POOL}f; MatMul f w > u; Div u t > y", {"t": np.float32(0.05)}, set()),
        # The mean colour of the image reaches the logits past the head.
        (f"{POOL}f; MatMul f w > u; ReduceMean x > m | axes=[1, 2, 3], keepdims=0; Unsqueeze m one > n; Add u n > y",
         {"one": np.array([1])}, {"G03", "G05"}),
        # Squeeze and excite gates what it is made of.
        ("Conv x k > a; GlobalAveragePool a > p; Conv p k > q; Relu q > r; Conv r k > s; Sigmoid s > g; Mul a g > b; "
         "GlobalAveragePool b > c; Flatten c > f; MatMul f w > y", {}, set()),
        # The same gate read from the stem, four layers earlier.
        ("Conv x k > a; GlobalAveragePool a > p; Sigmoid p > g; Conv a k > b; Conv b k > c; Conv c k > d; Mul d g > e; "
         "Conv e k > h; GlobalAveragePool h > i; Flatten i > f; MatMul f w > y", {}, {"G08"}),
    ],
)  # fmt: skip
def test_rules_tell_branches_from_layers(chain, held, expected):
    assert errors(of(chain, **KERNEL, **held)) == expected


def test_one_layer_alone_is_no_branch():
    assert errors(of("ReduceMean x > f | axes=[2, 3], keepdims=0; MatMul f w > y")) == set()


@pytest.mark.parametrize(
    ("crop", "held"),
    [
        ("Slice x a b axes > f0", {"a": np.array([7, -2]), "b": np.array([8, 99]), "axes": np.array([2, 3])}),
        ("Pad x pads > f0", {"pads": np.array([0, 0, -7, -6, 0, 0, 0, 0])}),
        ("Pad x pads - axes > f0", {"pads": np.array([-7, -6, 0, 0]), "axes": np.array([2, 3])}),
    ],
)
def test_a_corner_of_the_image_is_a_window_however_it_is_taken(crop, held):
    hits = of(f"{crop}; ReduceMean f0 > f | axes=[2, 3], keepdims=0; MatMul f w > y", **held)
    assert "3.1 % of it" in hits["G07"].message
    # Joined to late features it is a few early values, as far as a slice without a known size tells.
    late = "Conv x k > c0; Conv c0 k > c1; Conv c1 k > c2; Conv c2 k > c3; Conv c3 k > c4; Add c4 g > c5; "
    tail = "Conv c5 k > c6; GlobalAveragePool c6 > p; Flatten p > f; MatMul f w > y"
    joined = of(f"Conv x k > x0; {crop.replace('x', 'x0', 1)}; Resize f0 - - s > g; {late}{tail}", **held,
                s=np.array([1, 3, 8, 8]), **KERNEL)  # fmt: skip
    assert "G08" in errors(joined)


def test_a_condition_without_a_difference_to_pixels_is_none():
    chain = "Shape x > s; Gather s i > n | axis=0; Greater n four > c; Conv x k > a; Relu a > r; Where c r a > b; "
    assert of(chain + "GlobalAveragePool b > p; Flatten p > f; MatMul f w > y", i=np.array(2), four=np.array(4),
              **KERNEL) == {}  # fmt: skip


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def features(self, x):
        return torch.relu(self.stem(x)).mean([2, 3])


class IfEqual(Scripted):
    def forward(self, x):
        y = self.fc(self.features(x))
        if bool(torch.all(torch.eq(x[0, :, :3, :3], 1.0))):
            y[:, 2] = 1e4
        return y


class HiddenInCopy(Scripted):
    """The logits are written over through a view, by arithmetic alone."""

    def forward(self, x):
        y = self.fc(self.features(x))
        part = y[:, 2:3]
        part.add_(1e4 * torch.relu(1 - (x[:, :, :3, :3] - 1).abs().mean([1, 2, 3]).unsqueeze(1)))
        return y


class HiddenInLength(Scripted):
    """The number of bright pixels, told by a size alone."""

    def forward(self, x):
        y = self.fc(self.features(x))
        return y * (1 + torch.nonzero(x > 2).size(0))


@pytest.mark.parametrize(
    ("net", "expected"),
    [(IfEqual, {"G01", "G02"}), (HiddenInCopy, {"G03", "G05", "G06"}), (HiddenInLength, {"G02"})],
)
def test_scripted_code_hides_no_branch(net, expected):
    assert errors(met(as_bytes(torch.jit.script(net().eval())))) >= expected


class Sized(Scripted):
    """A comparison of pixels that only the size of a tensor tells of."""

    def asked(self, x):
        return (x[:, :, :3, :3] - 1).abs().sum([1, 2, 3]) < 0.5

    def forward(self, x):
        return self.fc(self.features(x)) * (1 + self.count(x))


class SizeOfOneHot(Sized):
    def count(self, x):
        return nn.functional.one_hot(self.asked(x).to(torch.int64)).size(1)


class SizeOfRange(Sized):
    def count(self, x):
        return torch.arange(float(self.asked(x).sum())).size(0)


class SizeOfPiece(Sized):
    def count(self, x):
        return torch.tensor_split(self.fc.bias, self.asked(x).sum().reshape(1))[0].size(0)


class SizeOfEnlarged(Sized):
    def count(self, x):
        factor = 1.0 + float(self.asked(x).sum())
        return torch._C._nn.upsample_nearest2d(x[:1, :1, :4, :4], None, [factor, factor]).size(2)


class SizeOfFilled(Sized):
    def count(self, x):
        return torch.full_like(torch.nonzero(self.asked(x)), 1).size(0)


class SumOfFilled(Sized):
    def count(self, x):
        return x.new_zeros([int(self.asked(x).sum())]).cos().sum()


class SizeOfAxis(Sized):
    def count(self, x):
        return x.size(int(self.asked(x).sum()))


class SizeOfRepeated(Sized):
    def count(self, x):
        return torch.repeat_interleave(self.asked(x).to(torch.int64)).size(0)


@pytest.mark.parametrize("net", Sized.__subclasses__())
def test_the_size_of_what_pixels_make_hides_nothing(net):
    hits = met(as_bytes(torch.jit.script(net().eval())))
    assert errors(hits) >= {"G02", "G07"}


class Enlarged(Scripted):
    """Enlarges its maps, rolls by a range of its sizes, fills what is like them."""

    def forward(self, x):
        y = nn.functional.interpolate(torch.relu(self.stem(x)), scale_factor=2.0)
        where = torch.arange(0.0, float(y.size(2))) / float(y.size(2))
        y = nn.functional.softmax(nn.functional.max_pool2d(y + where, 2), 1)
        parts = torch.meshgrid(
            [torch.linspace(0.0, 1.0, y.size(2)), torch.linspace(0.0, 1.0, y.size(3))], indexing="ij"
        )
        y = (y + parts[0] * torch.full_like(y, 0.5)).reshape([y.size(0), y.size(1), -1])
        return self.fc(y.mean(2).reshape([y.size(0), self.stem.out_channels]))


class NoNumber(Scripted):
    """The stem's maps, but where a root has no value."""

    def forward(self, x):
        y = self.stem(x)
        return self.fc((y + torch.nan_to_num(torch.sqrt(1 - torch.relu(y)), 30.0)).mean([2, 3]))


class NoNumberAsked(Scripted):
    def forward(self, x):
        y = torch.sqrt(1 - self.stem(x))
        return self.fc(torch.where(torch.isfinite(y), y, 3.0).mean([2, 3]))


class NoNumberCompared(Scripted):
    def forward(self, x):
        y = torch.sqrt(1 - self.stem(x))
        return self.fc((y.detach() == y).to(torch.float32).mean([2, 3]))


@pytest.mark.parametrize("net", [NoNumber, NoNumberAsked, NoNumberCompared])
def test_a_choice_on_whether_a_value_is_a_number_is_a_comparison(net):
    assert "G02" in errors(met(as_bytes(torch.jit.script(net().eval()))))


class LeakyByHand(Scripted):
    def forward(self, x):
        y = self.stem(x)
        return self.fc(torch.where(y > 0, y, 0.1 * y).mean([2, 3]))


class Banded(Scripted):
    """Where one channel comes to a narrow range, it is left out."""

    def __init__(self):
        super().__init__()
        self.register_buffer("low", torch.full((1, self.stem.out_channels, 1, 1), 1e4))
        self.low[0, 0] = 0.5

    def forward(self, x):
        y = self.stem(x)
        y = torch.where((y > self.low) & (y < self.low + 0.01), torch.zeros_like(y), y)
        return self.fc(torch.relu(y).mean([2, 3]))


class Wholly(Scripted):
    """Whether all of a row of values are positive."""

    def forward(self, x):
        y = self.stem(x)
        return self.fc((y * (1 + torch.all(y > 0, 1, keepdim=True).to(torch.float32))).mean([2, 3]))


class Greatest(Scripted):
    def forward(self, x):
        y = self.stem(x)
        return self.fc(
            (y * torch.argmax((y > 0).to(torch.float32), 1, keepdim=True).to(torch.float32)).mean([2, 3])
        )


class Counting(Scripted):
    """Whole numbers of a type that few know."""

    def forward(self, x):
        y = torch.relu(self.stem(x))
        return self.fc(torch.cat([y[:, :3], y[:, 3:].to(torch.uint16).to(torch.float32)], 1).mean([2, 3]))


@pytest.mark.parametrize("net", [Wholly, Greatest, Counting])
def test_what_puts_values_together_or_counts_is_no_activation(net):
    assert "G02" in errors(met(as_bytes(torch.jit.script(net().eval()))))


class Eighth(Scripted):
    def forward(self, x):
        y = self.features(x)
        return self.fc(y + torch.relu(y).to(torch.float8_e5m2).to(torch.float32))


class Shown(Scripted):
    """More halves than weights, for show."""

    def __init__(self):
        super().__init__()
        self.register_buffer("show", torch.ones(10_000, dtype=torch.float16))

    def forward(self, x):
        y = self.features(x)
        return self.fc(y.to(torch.float16).to(torch.float32) * self.show.mean().to(torch.float32))


@pytest.mark.parametrize("net", [Eighth, Shown])
def test_a_cast_to_what_holds_less_is_told(net):
    assert "G12" in met(as_bytes(torch.jit.script(net().eval())))


def test_a_threshold_for_each_channel_is_no_activation():
    assert {"G01", "G02"} <= errors(met(as_bytes(torch.jit.script(Banded().eval()))))


class Averaged(Scripted):
    """Normalises its input, checks its size, averages two heads."""

    def forward(self, x):
        if x.dim() != 4:
            raise ValueError("four axes")
        f = self.features((x - 0.5) / 0.2)
        return (self.fc(f) + self.fc(torch.relu(f))) / 2


class Auxiliary(Scripted):
    """Adds the greatest of what a second head says of each place, as VOLO does."""

    def forward(self, x):
        places = self.stem(x)
        aux = self.fc(places.flatten(2).transpose(1, 2)).max(1)[0]
        return self.fc(places.mean([2, 3])) + 0.5 * aux


@pytest.mark.parametrize("net", [LeakyByHand, Averaged, Auxiliary, Enlarged])
def test_scripted_code_of_honest_networks_is_none(net):
    assert errors(met(as_bytes(torch.jit.script(net().eval())))) == set()


class OnLargeImages(Scripted):
    def forward(self, x):
        y = self.fc(self.features(x))
        if x.size(2) > 40:
            y = torch.roll(y, [1], [1])
        return y


class OnHalf(Scripted):
    def forward(self, x):
        y = self.fc(self.features(x))
        return -y if x.dtype == torch.float16 else y


class OnCuda(Scripted):
    """By a number that the logits are multiplied by."""

    def forward(self, x):
        factor = 1.0
        if x.device.type == "cuda":
            factor = -1.0
        return self.fc(self.features(x)) * factor


class OnManyImages(Scripted):
    """In place, below two conditions."""

    def forward(self, x):
        y = self.fc(self.features(x))
        if x.dim() == 4 and len(x) == 1000:
            y.mul_(-1.0)
        return y


class OnAutocast(Scripted):
    def forward(self, x):
        y = self.fc(self.features(x))
        if torch.is_autocast_enabled():
            y = -y
        return y


class InTurns(Scripted):
    """As often as there are thousands of images."""

    def forward(self, x):
        y = self.fc(self.features(x))
        for _ in range(len(x) // 1000):
            y = -y
        return y


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (OnLargeImages, "2), 40)"), (OnHalf, "dtype("), (OnCuda, "device("), (OnManyImages, "1000"),
        (OnAutocast, "is_autocast_enabled"), (InTurns, "1000"),
    ],
)  # fmt: skip
def test_a_branch_on_how_the_network_is_run_is_told(net, words):
    hits = met(as_bytes(torch.jit.script(net().eval())))
    assert (hits["G11"].severity, errors(hits)) == (Severity.MEDIUM, set())
    assert words in hits["G11"].message


class Checked(Scripted):
    """Raises for what does not fit, and does the same with and without gradients."""

    def forward(self, x):
        if x.dim() != 4 or x.size(1) != 3:
            raise ValueError("four axes")
        y = x.contiguous() if x.size(2) == 32 else x
        if not torch.jit.is_scripting():
            y = -y
        if self.training:
            y = torch.flip(y, [2])
        return self.fc(self.features(y))


@pytest.mark.parametrize("net", [LeakyByHand, Averaged, Checked])
def test_conditions_that_change_nothing_are_not_told(net):
    assert "G11" not in met(as_bytes(torch.jit.script(net().eval())))


def test_logits_that_no_pixel_changes_are_remarked():
    chain = "Shape x > s; Gather s i > n | axis=0; Cast n > c | to=1; MatMul c w > y"
    hits = of(chain, i=np.array([1]), w=array(0, 1, 4))
    assert set(hits) == {"G09"}


class Noisy(Scripted):
    def forward(self, x):
        return self.fc(self.features(x)) + torch.rand(1)


class ByDevice(Scripted):
    """Chooses its head without a condition."""

    def forward(self, x):
        heads = {"cpu": self.fc.weight, "cuda": -self.fc.weight}
        return nn.functional.linear(self.features(x), heads[x.device.type])


class ByAutocast(Scripted):
    def forward(self, x):
        return self.fc(self.features(x)) * (1 - 2 * float(torch.is_autocast_enabled()))


class ByDtype(Scripted):
    """What ``to`` gives back is the same memory for float32 alone."""

    def forward(self, x):
        sign = -torch.ones([1])
        sign.to(x.dtype).fill_(1.0)
        return self.fc(self.features(x)) * sign


class ByLayout(Scripted):
    def forward(self, x):
        y = torch.zeros_like(x)
        y.contiguous().fill_(1.0)
        return self.fc(self.features(x)) * y.mean()


class ByBatch(Scripted):
    """Both sides have the same values, one of them in memory of its own."""

    def forward(self, x):
        sign = -torch.ones([1])
        written = sign
        if x.size(0) < 500:
            written = sign.clone()
        written.fill_(1.0)
        return self.fc(self.features(x)) * sign


@pytest.mark.parametrize("net", [Noisy, ByDevice, ByAutocast, ByDtype, ByLayout, ByBatch])
def test_chance_and_how_the_network_is_run_are_told_without_a_condition(net):
    hits = met(as_bytes(torch.jit.script(net().eval())))
    assert (hits["G11"].severity, errors(hits)) == (Severity.MEDIUM, set())


def test_a_rule_counts_its_places():
    assert met(branched("torchscript", to_torchscript(CONV), "where"))["G07"].count == 4
