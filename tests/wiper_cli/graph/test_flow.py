"""Taint, depth, domination and paths on small dataflows written by hand."""

import pytest

from formats import Unsupported
from formats.dataflow import Builder, Dataflow
from wiper_cli.graph import flow as module
from wiper_cli.graph.flow import Flow


def refused(node):
    raise Unsupported("not asked for")


def flowing(text):
    """Lines ``name = operator role data… ? control…``; the last one is the output."""
    builder, known = Builder(), {}
    for line in text.strip().splitlines():
        name, _, rest = line.strip().partition(" = ")
        data, _, control = rest.partition(" ? ")
        operator, role, *data = data.split()
        known[name] = builder.add(
            operator, role, [known[one] for one in data], [known[one] for one in control.split()], place=name
        )
    return Flow(Dataflow(tuple(builder.nodes), len(builder.nodes) - 1, (None,) * 4, refused)), known


RESIDUAL = """
x = input input
w = stored stored
stem = Conv linear x w
a = Conv linear stem w
b = Relu pointwise a
c = Conv linear b w
sum = Add add c stem
head = Gemm linear sum w
"""


def test_only_what_pixels_change_and_the_logits_read_is_live():
    flow, known = flowing("""
    x = input input
    w = stored stored
    s = Shape shape x
    r = Reshape view x ? s
    other = Relu pointwise x
    y = Gemm linear r w
    """)
    assert {flow[n].place for n in flow.live} == {"x", "r", "y"}
    assert flow.weighted == {known["y"]}


def test_depths_count_weighted_layers():
    flow, known = flowing(RESIDUAL)
    assert (flow.least[known["head"]], flow.depth[known["head"]]) == (2, 4)
    assert flow.ahead[known["stem"]] == 3
    assert (flow.between(known["stem"], known["sum"])[known["c"]], flow.depth[known["c"]]) == (2, 3)


def test_the_fork_dominates_the_join():
    flow, known = flowing(RESIDUAL)
    assert flow.dominator[known["sum"]] == known["stem"]
    assert list(flow.dominators(known["c"], known["stem"])) == [known["c"], known["b"], known["a"]]
    assert flow.dominator[known["x"]] == -1


def test_a_path_leads_through_what_it_shall():
    flow, known = flowing(RESIDUAL)
    assert [flow[n].place for n in flow.path()] == ["x", "stem", "sum", "head"]
    assert [flow[n].place for n in flow.path([known["b"]])] == ["x", "stem", "a", "b", "c", "sum", "head"]


def test_the_size_of_what_was_selected_by_value_is_a_value():
    flow, _ = flowing("""
    x = input input
    w = stored stored
    n = NonZero step x
    s = Shape shape n
    m = Mul scale w s
    """)
    assert {flow[n].place for n in flow.live} == {"x", "n", "s", "m"}


@pytest.mark.parametrize(
    ("operator", "kept"), [("Range", True), ("aten::unheard_of", True), ("Softmax", False)]
)
def test_sizes_follow_from_sizes_only_where_that_is_known(operator, kept):
    flow, _ = flowing(f"""
    x = input input
    w = stored stored
    n = {operator} other x
    s = Shape shape n
    m = Mul scale w s
    """)
    assert {flow[n].place for n in flow.live} == ({"x", "n", "s", "m"} if kept else set())


def test_a_size_that_is_asked_for_by_a_value_is_a_value():
    flow, _ = flowing("""
    x = input input
    w = stored stored
    s = aten::size shape w ? x
    m = Mul scale w s
    """)
    assert {flow[n].place for n in flow.live} == {"x", "s", "m"}


def test_what_a_loop_carries_back_is_tainted_too():
    builder = Builder()
    x = builder.add("input", "input")
    w = builder.add("stored", "stored")
    carried = builder.add("Loop", "choose", [w])
    made = builder.add("Add", "add", [carried, x])
    builder.nodes[carried] = builder.nodes[carried].__class__("Loop", "choose", (w, made))
    flow = Flow(Dataflow(tuple(builder.nodes), carried, (None,) * 4, refused))
    assert set(flow.live) == {x, carried, made}


def test_a_tangle_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MOST_STEPS", 5)
    with pytest.raises(Unsupported, match="too tangled"):
        flowing(RESIDUAL)
