"""What pixels change on their way to the logits: taint, depth, domination. No torch.

*Tainted*: computed from the values of the images, not from their size alone. *Weighted*: a product of a tainted value
with a stored tensor. *Depth*: weighted nodes on a path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

from formats import Unsupported
from formats.dataflow import Dataflow, Node, Span

#: Visits to nodes, over all that is asked of one graph; honest ones need less than a hundredth.
MOST_STEPS = 20_000_000

#: Rows or columns of a map that are few.
FEW = 8
#: Operators that have a role and yet a result as large as the values say.
_VARIABLE = frozenset(
    (
        "NonZero", "Compress", "Unique", "NonMaxSuppression", "SplitToSequence", "MaxUnpool", "ReduceLogSum", "nonzero",
        "one_hot", "masked_select", "tensor_split",
    )
)  # fmt: skip
#: Operators without a role whose result is as large as the sizes of what they read, constants and controls say; every
#: other one may make a size of values.
_KEEPING = """
AveragePool ConstantOfShape BiasSoftmax Det EyeLike GridSample GroupNorm GroupNormalization ImageScaler
InstanceNormalization Inverse LRN LayerNormalization LogSoftmax LpNormalization LpPool MaxPool MaxRoiPool
MeanVarianceNormalization NhwcMaxPool Normalizer QLinearAveragePool QLinearSoftmax RMSNormalization
RelativePositionBias Resize ReverseSequence RoiAlign RotaryEmbedding Scaler SimplifiedLayerNormalization
SkipGroupNorm SkipLayerNormalization SkipSimplifiedLayerNormalization Softmax SwiGLU Trilu Upsample
_convolution_mode _nested_tensor_from_mask _set_item _unwrap_optional _upsample_bicubic2d_aa
_upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d atan2 avg_pool1d avg_pool2d avg_pool3d broadcast_tensors col2im cosine_similarity diag
diag_embed diff empty eye fft_fft fft_fft2 fft_fftshift fft_ifft fft_ifft2 fft_ifftshift fft_irfft fft_irfft2
fft_rfft fft_rfft2 fill full full_like glu grid_sampler group_norm hypot imag instance_norm items keys layer_norm
linspace list log_softmax logaddexp max_pool1d max_pool2d max_pool2d_with_indices max_pool3d meshgrid
native_group_norm native_layer_norm ones pairwise_distance real reflection_pad3d repeat_interleave
replication_pad3d reverse rms_norm scaled_dot_product_attention softmax to_padded_tensor
unchecked_unwrap_optional upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
upsample_nearest2d upsample_nearest3d upsample_trilinear3d values view_as_complex view_as_real zero zeros
"""
_FIXED = frozenset(_KEEPING.split())


def _few(span: Span) -> bool:
    """Whether few rows or columns may be taken; where that depends on the size of the map, they may."""
    axis, start, stop, step = span
    if axis not in (2, 3, -1, -2) or (not start and stop is None):
        return False
    if (start < 0) != (stop is None or stop < 0):
        return True
    return len(range(start, stop or 0, step or 1)) <= FEW


def named(node: Node) -> str:
    """Its operator without namespace, and without the underscore of what writes in place."""
    name = node.operator.rpartition("::")[2]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _sized_by_values(node: Node) -> bool:
    """Whether the size of a node may follow from the values that it is computed from."""
    return named(node) in _VARIABLE or (node.role == "other" and named(node) not in _FIXED)


def branches(node: Node) -> bool:
    """Whether a node runs one of several parts of the graph, or one some number of times."""
    return node.operator.rpartition("::")[2] in ("If", "Loop")


class Flow:
    """A dataflow restricted to the tainted nodes from which the logits are computed.

    ``live``: their numbers, inputs first. ``parents``, ``children``: among them, without what loops carry back.
    Whatever is asked raises :class:`formats.Unsupported` for a graph so tangled that the answer has no end.
    """

    def __init__(self, dataflow: Dataflow) -> None:
        self.dataflow = dataflow
        self._left = MOST_STEPS
        tainted = self._tainted()
        reached, queue = {dataflow.output} & tainted, [dataflow.output]
        while queue:
            for one in self[queue.pop()].inputs:
                if one in tainted and one not in reached:
                    reached.add(one)
                    queue.append(one)
        self.live = sorted(reached)
        self.parents = {
            n: [one for one in dict.fromkeys(self[n].inputs) if one in reached and one < n] for n in self.live
        }
        self.children: dict[int, list[int]] = {n: [] for n in self.live}
        for n in self.live:
            for one in self.parents[n]:
                self.children[one].append(n)

    def spend(self, steps: int) -> None:
        """Counts visits to nodes."""
        self._left -= steps
        if self._left < 0:
            raise Unsupported("The graph is too tangled to be followed.")

    def __getitem__(self, number: int) -> Node:
        return self.dataflow.nodes[number]

    def collapses(self, number: int) -> bool:
        """Whether a node makes few values of many: averages them, or takes a few rows or columns of a map."""
        node = self[number]
        return node.role == "reduce" or (node.role == "pick" and any(map(_few, node.spans or ())))

    @property
    def output(self) -> int:
        """The logits."""
        return self.dataflow.output

    @cached_property
    def images(self) -> list[int]:
        """Where the images enter."""
        return [n for n in self.live if self[n].role == "input"]

    @cached_property
    def weighted(self) -> frozenset[int]:
        """Products of a tainted value with a stored tensor."""
        return frozenset(
            n
            for n in self.live
            if self[n].role == "linear" and any(one not in self.parents for one in self[n].data)
        )

    @cached_property
    def least(self) -> dict[int, int]:
        """Fewest weighted nodes on a path from the images to a node, itself included."""
        return self._depths(min)

    @cached_property
    def depth(self) -> dict[int, int]:
        """Most weighted nodes on a path from the images to a node, itself included."""
        return self._depths(max)

    @cached_property
    def ahead(self) -> dict[int, int]:
        """Most weighted nodes on a path from a node to the logits, itself not included."""
        found: dict[int, int] = {}
        for n in reversed(self.live):
            found[n] = max((found[one] + (one in self.weighted) for one in self.children[n]), default=0)
        return found

    def _depths(self, choose: Callable[[Iterable[int]], int]) -> dict[int, int]:
        found: dict[int, int] = {}
        for n in self.live:
            found[n] = choose([found[one] for one in self.parents[n]] or [0]) + (n in self.weighted)
        return found

    @cached_property
    def dominator(self) -> dict[int, int]:
        """The nearest node through which every path from the images to a node leads; -1 where there is none."""
        found: dict[int, int] = {}
        level = {-1: 0}
        for n in self.live:
            common: int | None = None
            for one in self.parents[n]:
                while common is not None and common != one:
                    self.spend(1)
                    if level[common] < level[one]:
                        one = found[one]
                    else:
                        common = found[common]
                common = one
            found[n] = -1 if common is None else common
            level[n] = level[found[n]] + 1
        return found

    def dominators(self, node: int, above: int = -1) -> Iterator[int]:
        """``node`` and its dominators, nearest first, up to but without ``above``."""
        while node not in (above, -1):
            yield node
            node = self.dominator[node]

    def behind(self, nodes: Iterable[int], conditions: bool = True) -> set[int]:
        """``nodes`` and all that they are computed from, what no pixel changes included. ``conditions``: also what
        decides which part of the graph computes them."""
        met = set(nodes)
        queue = [*met]
        while queue:
            node = self[queue.pop()]
            for one in node.inputs if conditions or not branches(node) else node.data:
                self.spend(1)
                if one not in met:
                    met.add(one)
                    queue.append(one)
        return met

    def above(self, node: int) -> set[int]:
        """``node`` and all that it is computed from."""
        met, queue = {node}, [node]
        while queue:
            for one in self.parents[queue.pop()]:
                self.spend(1)
                if one not in met:
                    met.add(one)
                    queue.append(one)
        return met

    def between(self, above: int, below: int) -> dict[int, int]:
        """Most weighted nodes on a path from behind ``above`` to each node that leads to ``below``; ``above`` dominates
        it."""
        inside, queue = {below}, [below]
        while queue:
            n = queue.pop()
            self.spend(1)
            for one in self.parents[n] if n != above else ():
                if one not in inside:
                    inside.add(one)
                    queue.append(one)
        depth: dict[int, int] = {}
        for n in sorted(inside):
            before = [depth[one] for one in self.parents[n] if one in depth]
            depth[n] = 0 if n == above else max(before, default=0) + (n in self.weighted)
        return depth

    def path(self, through: Iterable[int] = ()) -> list[int]:
        """A path from the images to the logits with few weighted nodes that leads through the given nodes, in order."""
        found: list[int] = []
        stops = [*through, self.output]
        for stop in stops:
            found += self._leg(found[-1] if found else None, stop)
        return found

    def _leg(self, start: int | None, stop: int) -> list[int]:
        """The way from behind ``start`` (or from the images) to ``stop`` with the fewest weighted nodes, then nodes."""
        if start == stop:
            return []
        cost: dict[int, tuple[int, int, int]] = {}
        for n in self.live:
            if n > stop:
                break
            own = int(n in self.weighted)
            if n == start or (start is None and self[n].role == "input"):
                cost[n] = (own, 0, -1)
            elif reached := [(*cost[one][:2], one) for one in self.parents[n] if one in cost]:
                weight, steps, one = min(reached)
                cost[n] = (weight + own, steps + 1, one)
        way, n = [], stop
        while n in cost and n != start:
            way.append(n)
            n = cost[n][2]
        return way[::-1]

    def _tainted(self) -> frozenset[int]:
        """Nodes whose values depend on pixels. Sizes do where they follow from values, or from what selects by them."""
        tainted: set[int] = set()
        sized: set[int] = set()
        grown = -1
        while grown != len(tainted) + len(sized):
            grown = len(tainted) + len(sized)
            self.spend(len(self.dataflow.nodes))
            for n, node in enumerate(self.dataflow.nodes):
                asked = sized if node.role == "shape" else tainted
                decided = any(one in tainted for one in node.control)
                if node.role == "input" or decided or any(one in asked for one in node.data):
                    tainted.add(n)
                if (
                    decided
                    or any(one in sized for one in node.data)
                    or (_sized_by_values(node) and any(one in tainted for one in node.data))
                ):
                    sized.add(n)
        return frozenset(tainted)
