"""The dataflow of TorchScript networks: conditions, loops, numbers made of tensors, and what writes in place."""

import pytest
import torch
from torch import Tensor, nn
from torchscript_files import as_bytes

from formats import Source, Unsupported, trace
from formats.dataflow import Span


class Net(nn.Module):
    """A head behind what a test does with the pooled image."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)


class Branch(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        if bool(torch.all(torch.eq(x[:, :, :2, 1:3], 1.0))):
            y = torch.neg(y)
        return self.fc(y)


class Choice(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        return self.fc(torch.where(y > 0, y, torch.exp(y)))


class Number(Net):
    def forward(self, x):
        return self.fc(x.mean([2, 3]) * float(x.amax()))


class Size(Net):
    def forward(self, x):
        if x.size(2) > 4:
            x = torch.relu(x)
        return self.fc(x.mean([2, 3]))


class WriteThroughView(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        z = torch.zeros_like(y)
        part = z[:, 0:1]
        part.copy_(torch.exp(y[:, 1:2]))
        return self.fc(z)


class InsertInList(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        parts = [y]
        parts.insert(0, torch.sin(y))
        return self.fc(parts[0])


class ExtendList(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        parts = [y]
        parts.extend([torch.sin(y)])
        return self.fc(parts[1])


class InsertInInnerList(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        parts = [y]
        rows = [parts]
        rows[0].insert(0, torch.sin(y))
        return self.fc(parts[0])


class SetInDictionary(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        parts = {"a": y}
        parts["a"] = torch.sin(y)
        return self.fc(parts["a"])


class WriteIntoDropout(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        z = torch.dropout(y, 0.5, False)
        z.mul_(torch.sin(y))
        return self.fc(y.reshape([z.size(0), 3]))


class WriteIntoTypeAs(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        z = y.type_as(x)
        z.mul_(torch.sin(y))
        return self.fc(y.reshape([z.size(0), 3]))


class WriteIntoEinsum(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        z = torch.einsum("ij->ij", [y])
        z.mul_(torch.sin(y))
        return self.fc(y.reshape([z.size(0), 3]))


class WriteIntoListTwice(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        z = ([y] * 2)[1]
        z.mul_(torch.sin(y))
        return self.fc(y.reshape([z.size(0), 3]))


class WriteIntoBroadcast(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        z = torch.broadcast_tensors([y, y])[1]
        z.mul_(torch.sin(y))
        return self.fc(y.reshape([z.size(0), 3]))


class InPlace(Net):
    def forward(self, x):
        y = torch.conv2d(x, torch.ones([3, 3, 1, 1]))
        torch.relu_(y)
        return self.fc((x + y).mean([2, 3]))


class WriteInLoop(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        for _ in range(x.size(2) // 41):
            y.mul_(torch.sin(y))
        return self.fc(y)


class LengthOfText(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        return self.fc(y * float(len(str(bool(torch.any(torch.sin(y) > 0))))))


class MemberOfList(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        return self.fc(y * float(int(torch.any(torch.sin(y) > 0)) in [1]))


class WriteInBranch(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        if bool(y.sum() > 0):
            y.mul_(torch.sin(y))
        return self.fc(y)


class Append(Net):
    def forward(self, x):
        parts = [torch.exp(x.mean([2, 3]))]
        parts.append(torch.sin(x.mean([2, 3])))
        return self.fc(torch.stack(parts).mean(0))


class Counted(Net):
    def forward(self, x):
        y = x.mean([2, 3])
        for _ in range(x.size(1)):
            y = torch.sin(y)
        return self.fc(y)


class State(Net):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, x):
        self.seen += 1
        return self.fc(x.mean([2, 3]))


def followed(net, how="scripted"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = net().eval()
    scripted = (
        torch.jit.script(module) if how == "scripted" else torch.jit.trace(module, torch.rand(2, 3, 8, 8))
    )
    return trace(Source("m.pt", as_bytes(scripted)))


def nodes(flow, operator):
    return [node for node in flow.nodes if node.operator.rpartition("::")[2] == operator]


def reach(flow, number):
    """Operators that a node is computed from."""
    met, queue = set(), [number]
    while queue:
        n = queue.pop()
        if n not in met:
            met.add(n)
            queue += flow.nodes[n].inputs
    return {flow.nodes[n].operator.rpartition("::")[2] for n in met}


def test_a_condition_of_pixels_controls_what_comes_out():
    flow = followed(Branch)
    (fork,) = [node for node in nodes(flow, "If") if node.role == "choose"]
    assert {"input", "eq", "all", "Bool"} <= reach(flow, fork.control[0])
    assert {flow.nodes[n].operator for n in fork.data} == {"aten::neg", "aten::mean"}
    assert [node.role for node in nodes(flow, "Bool")] == ["scalar"]
    assert [node.spans for node in nodes(flow, "slice")][-2:] == [(Span(2, 0, 2),), (Span(3, 1, 3),)]


@pytest.mark.parametrize("how", ["scripted", "traced"])
def test_where_has_its_condition_for_a_control(how):
    flow = followed(Choice, how)
    (where,) = nodes(flow, "where")
    assert [flow.nodes[n].operator for n in where.control] == ["aten::gt"]
    assert [flow.nodes[n].operator for n in where.data] == ["aten::mean", "aten::exp"]
    assert flow.shape == ((2, 3, 8, 8) if how == "traced" else (None,) * 4)


def test_a_number_made_of_a_tensor_is_one():
    flow = followed(Number)
    assert "scalar" in {node.role for node in flow.nodes}
    assert "amax" in reach(flow, flow.output)


def test_sizes_are_no_values():
    flow = followed(Size)
    assert {node.role for node in nodes(flow, "size")} == {"shape"}
    (fork,) = nodes(flow, "If")
    assert {flow.nodes[n].operator for n in fork.data} == {"aten::relu", "input"}


class LikeStored(Net):
    """Takes a window whose size is that of a stored tensor."""

    def __init__(self):
        super().__init__()
        self.register_buffer("like", torch.zeros(1, 3, 2, 2))

    def forward(self, x):
        return self.fc(x[:, :, : self.like.size(2), : self.like.size(3)].mean([2, 3]))


def test_a_window_of_the_size_of_a_stored_tensor_is_constant():
    spans = [node.spans for node in nodes(followed(LikeStored), "slice")]
    assert spans[-2:] == [(Span(2, 0, 2),), (Span(3, 0, 2),)]


def test_what_is_written_through_a_view_is_in_the_whole():
    assert {"exp", "copy_", "zeros_like"} <= reach(
        followed(WriteThroughView), followed(WriteThroughView).output
    )


@pytest.mark.parametrize(
    "network",
    [
        InsertInList, ExtendList, InsertInInnerList, SetInDictionary, WriteIntoDropout, WriteIntoTypeAs,
        WriteIntoEinsum, WriteIntoBroadcast, WriteIntoListTwice,
    ],
)  # fmt: skip
def test_what_is_written_where_no_schema_says_so_is_in_the_answer(network):
    assert "sin" in values(followed(network))


@pytest.mark.parametrize("network", [LengthOfText, MemberOfList])
def test_numbers_that_are_made_of_texts_and_lists_are_of_the_image(network):
    assert {"sin", "gt"} <= values(followed(network))


def test_what_a_loop_writes_is_chosen_by_how_often_it_runs():
    flow = followed(WriteInLoop)
    (choice,) = [one for one in nodes(flow, "Loop") if flow.nodes[one.data[0]].operator == "aten::mean"]
    assert (choice.role, "sin" in reach(flow, choice.data[1])) == ("choose", True)
    assert any("floordiv" in reach(flow, n) for n in choice.control)


def values(flow):
    """Operators whose values are in the answer; what only has a shape that is asked for is not."""
    met, queue = set(), [flow.output]
    while queue:
        n = queue.pop()
        if n not in met and flow.nodes[n].role != "shape":
            met.add(n)
            queue += flow.nodes[n].data
    return {flow.nodes[n].operator.removeprefix("aten::") for n in met}


def test_ordinary_layers_that_write_in_place_change_nothing_before_them():
    """An activation in place behind a convolution is not in what went into the convolution."""
    flow = followed(InPlace)
    (convolution,) = nodes(flow, "convolution") or nodes(flow, "conv2d")
    assert "relu_" not in reach(flow, flow.nodes.index(convolution))
    assert {"relu_", "conv2d"} <= reach(flow, flow.output)


def test_what_one_branch_writes_is_chosen_by_its_condition():
    flow = followed(WriteInBranch)
    assert {"sin", "mul_", "gt"} <= reach(flow, flow.output)
    choices = [node for node in flow.nodes if node.role == "choose"]
    assert any(
        {flow.nodes[n].operator for n in node.data} == {"aten::mul_", "aten::mean"} for node in choices
    )


def test_what_is_appended_is_in_the_list():
    assert {"exp", "sin"} <= reach(followed(Append), followed(Append).output)


def test_what_a_round_makes_is_what_the_next_one_reads():
    flow = followed(Counted)
    loops = nodes(flow, "Loop")
    carried = next(one for one in loops if any(flow.nodes[n].operator == "aten::mean" for n in one.data))
    number = flow.nodes.index(carried)
    assert any("sin" in reach(flow, n) and number in _all(flow, n) for n in carried.data)
    assert any("size" in reach(flow, n) for n in carried.control)


def _all(flow, number):
    met, queue = set(), [number]
    while queue:
        n = queue.pop()
        if n not in met:
            met.add(n)
            queue += flow.nodes[n].inputs
    return met


def test_a_network_that_keeps_state_is_refused():
    with pytest.raises(Unsupported):
        followed(State)


@pytest.mark.parametrize("how", ["scripted", "traced"])
def test_a_part_of_the_graph_computes_what_its_node_holds(how):
    flow = followed(Choice, how)
    where = next(n for n, node in enumerate(flow.nodes) if node.operator == "aten::where")
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    value = flow.prefix(where)(x)
    y = x.mean([2, 3])
    torch.testing.assert_close(value, torch.where(y > 0, y, torch.exp(y)))
    assert value.requires_grad


def test_a_value_inside_a_branch_has_no_part_of_its_own():
    flow = followed(Branch)
    inside = next(n for n, node in enumerate(flow.nodes) if node.operator == "aten::neg")
    with pytest.raises(Unsupported, match="inside a branch"):
        flow.prefix(inside)


def test_rounding_by_division_is_a_step_and_plain_division_none():
    class Divide(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = x.mean([2, 3])
            return self.fc(torch.div(y, 3.0) + torch.div(y, 2.0, rounding_mode="floor"))

    assert sorted(node.role for node in nodes(followed(Divide), "div")) == ["scale", "step"]


def test_types_that_are_asked_are_no_values():
    class Typed(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = x.mean([2, 3])
            filled = torch.full_like(y, 2.0)
            return self.fc(y.to(torch.float32) + filled.to(torch.int64) + y.to(torch.int64))

    flow = followed(Typed)
    assert sorted(node.role for node in nodes(flow, "to")) == ["step", "step", "view"]
    (filled,) = nodes(flow, "full_like")
    assert [flow.nodes[n].role for n in filled.data] == ["stored"]


class Exampled(Net):
    """A cast to the type of a tensor, of which a test has several."""

    def __init__(self):
        super().__init__()
        self.register_buffer("whole", torch.zeros(1, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean([2, 3])
        return self.fc(self.cast(y, x).to(torch.float32))


class AsStored(Exampled):
    def cast(self, y, x):
        return y.type_as(self.whole)


class ToStored(Exampled):
    def cast(self, y, x):
        return y.to(self.whole)


class ToItsType(Exampled):
    def cast(self, y, x):
        return y.to(self.whole.dtype)


class AsPlaces(Exampled):
    def cast(self, y, x):
        return y.type_as(torch.max(y, 1)[1])


class AsSize(Exampled):
    def cast(self, y, x):
        return y.type_as(torch.tensor(x.size(0)))


class AsChosen(Exampled):
    def cast(self, y, x):
        example = x
        if x.size(0) > 3:
            example = self.whole
        return y.type_as(example)


class AsTurned(Exampled):
    def cast(self, y, x):
        a, b, c = x, x, x
        for _ in range(x.size(1)):
            a, b, c = b, c, self.whole
        return y.type_as(a)


class CopiedInto(Exampled):
    def cast(self, y, x):
        return torch.zeros([y.size(0), 3], dtype=torch.int64).copy_(y)


class Summed(Exampled):
    def cast(self, y, x):
        return y.unsqueeze(2).sum(2, dtype=torch.int64)


@pytest.mark.parametrize("net", Exampled.__subclasses__())
def test_a_cast_to_whole_numbers_is_a_step_however_its_type_is_told(net):
    flow = followed(net)
    back = nodes(flow, "to")[-1]
    assert flow.nodes[back.data[0]].role == "step"


class Precise(Net):
    """Computes in the type of its weights and gives back that of its input, as layers in mixed precision do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.zeros(3, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean([2, 3]).to(self.fc.weight)
        kept = x
        if x.size(2) > 4:
            kept = torch.relu(x) * x.size(2)
        for _ in range(x.size(1)):
            kept = kept + 1
        y = y + torch.arange(3, dtype=torch.int64).type_as(y) + self.table.to(y.dtype)
        z = torch.zeros([y.size(0), 3]).copy_(y)
        return self.fc(
            z.to(torch.float32).type_as(kept).to(x.dtype) + torch.max(y, 1)[0].type_as(y).unsqueeze(1)
        )


def test_a_cast_to_the_type_of_a_fraction_is_none():
    flow = followed(Precise)
    casts = [node.role for name in ("to", "type_as", "copy_") for node in nodes(flow, name)]
    assert len(casts) >= 4
    assert "step" not in casts
