"""A pretend CUDA device: tensors that say they lie on ``cuda:0``, are computed on the CPU, and refuse what CUDA does.

Every library call arrives below autograd, where the devices of its tensors are compared as CUDA's own kernels do. What
is refused there: tensors of two devices in one call (but CPU scalars where a kernel takes them by value, CPU indices of
a CUDA tensor, and copies), a CPU generator that draws on CUDA, memory read as numpy. What it cannot show: kernels, the
digits of CUDA, its memory, streams, and what happens before a copy that does not block has ended.
"""

import contextlib

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
#: Where torch itself believes these tensors to lie: it has no memory, needs no driver, and is not the ``meta`` without
#: a number, on which networks are built as mere shapes.
BELIEVED = torch.device("meta:1")
aten = torch.ops.aten
COPIES = {aten._to_copy, aten.copy_, aten.copy, aten._foreach_copy_}
INDEXING = {
    aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index, aten._unsafe_index_put,
}  # fmt: skip
#: What takes a scalar on the CPU by value, beside all that works element by element.
BY_VALUE = {aten.fill_, aten.fill, aten.masked_fill, aten.masked_fill_, aten.index_fill, aten.index_fill_}
#: What autocast of CUDA hands over in low precision, and what in float32 (the parts of its lists that are in use).
LOW = {
    "conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm",
    "addmm", "baddbmm", "einsum", "scaled_dot_product_attention", "prelu",
}  # fmt: skip
FULL = {
    "softmax", "log_softmax", "cross_entropy", "nll_loss", "layer_norm", "group_norm", "exp", "log", "pow", "__pow__",
    "sum", "prod", "cumsum", "norm", "mse_loss", "l1_loss", "kl_div", "cosine_similarity", "logsumexp", "softplus",
}  # fmt: skip


class Pretend(torch.Tensor):
    """What it is lies on the CPU, in ``inner``."""

    @staticmethod
    def __new__(cls, inner):
        assert type(inner) is torch.Tensor
        assert inner.device == CPU
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=BELIEVED,
        )  # fmt: skip
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatched(func, args, kwargs or {})

    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(tensors, context, size, stride):
        return Pretend(tensors["inner"])

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            made = self.detach().clone(memory_format=torch.preserve_format).requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                made._is_param = True
            memo[id(self)] = made
        return memo[id(self)]

    def __repr__(self):
        return f"Pretend({self.inner!r})"

    def get_device(self):
        return 0

    def to(self, *args, **kwargs):
        if args and isinstance(args[0], torch.Tensor):
            return self.to(args[0].device, args[0].dtype, *args[1:], **kwargs)
        plain = {key: value for key, value in kwargs.items() if key not in ("copy", "memory_format")}
        others = [one for one in args if not isinstance(one, torch.memory_format)]
        device, dtype, _, _ = torch._C._nn._parse_to(*others, **plain)
        same = (device is None or device.type == "cuda") and dtype in (None, self.dtype)
        if same and not kwargs.get("copy") and kwargs.get("memory_format") is None:
            return self
        return super().to(*args, **kwargs)

    def cuda(self, *args, **kwargs):
        return self

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to host memory first."
        )

    __array__ = numpy

    def untyped_storage(self):
        return self.inner.untyped_storage()

    def data_ptr(self):
        return self.inner.data_ptr()

    def is_pinned(self):
        return False


def dispatched(func, args, kwargs):
    """``func`` on what lies inside, its result where CUDA would leave it; raises RuntimeError where CUDA would."""
    flat, _ = tree_flatten((args, kwargs))
    packet = func.overloadpacket
    there = [one for one in flat if isinstance(one, Pretend)]
    here = [one for one in flat if isinstance(one, torch.Tensor) and not isinstance(one, Pretend)]
    wanted = kwargs.get("device")
    wanted = torch.device(wanted) if wanted is not None else None
    if packet is aten._fused_sdp_choice and there:
        return 0  # the plain formula
    if not there and (any(one.is_meta for one in here) or wanted == torch.device("meta")):
        return func(*args, **kwargs)
    assert not any(one.is_meta for one in here), f"{func} got a tensor without memory"
    if there and here and packet not in COPIES:
        _refuse_mixed(func, args, here)
    if wanted is None:
        on_cuda = bool(there)
    else:
        on_cuda = wanted.type == "cuda" or wanted == BELIEVED
        kwargs = {**kwargs, "device": CPU}
    if packet in COPIES and packet is not aten._to_copy:
        first = args[0][0] if isinstance(args[0], list | tuple) else args[0]
        on_cuda = isinstance(first, Pretend)
    if on_cuda and any(isinstance(one, torch.Generator) and one.device.type == "cpu" for one in flat):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    if on_cuda and kwargs.get("pin_memory"):
        raise RuntimeError("Only dense CPU tensors can be pinned")
    owners = {id(one.inner): one for one in there}
    inside, named = tree_map_only(Pretend, lambda one: one.inner, (args, kwargs))
    found = func(*inside, **named)
    if there and torch.Tag.inplace_view in func.tags:
        with no_dispatch():
            func(*args, **kwargs)  # the shape outside
    if not on_cuda:
        return found

    def outer(one):
        owner = owners.get(id(one))
        if owner is None:
            return Pretend(one)
        if owner.shape != one.shape or owner.stride() != one.stride():
            raise NotImplementedError(f"{func} changes a shape in place")
        return owner

    return tree_map_only(torch.Tensor, outer, found)


def _refuse_mixed(func, args, here):
    packet = func.overloadpacket
    if packet in INDEXING:
        if not isinstance(args[0], Pretend):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        values = args[2] if len(args) > 2 else None
        here = [one for one in here if one is values]
        by_value = True
    else:
        by_value = packet in BY_VALUE or torch.Tag.pointwise in func.tags
        written = [one for one, of in zip(args, func._schema.arguments, strict=False) if of.alias_info]
        if any(one is other for one in here for other in written):
            by_value = False
    if any(one.dim() or not by_value for one in here):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({func})"
        )


class _Device(TorchDispatchMode):
    """Sees what is made on the device, and every call with nothing of it."""

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # else the first call imports a compiler, for seconds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatched(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Calls as Python makes them: ``cuda`` has another name for torch, which would look for a driver else, and bfloat16
    is taken where :func:`torch.autocast` asks for it on CUDA; ``low`` counts the calls that got it."""

    def __init__(self):
        super().__init__()
        self.low = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "cuda":
            func, args = torch.Tensor.to, (args[0], CUDA)
        if name in ("to", "cuda"):
            args = tuple(map(_named, args))
        if name in ("__getitem__", "__setitem__") and isinstance(args[0], Pretend):
            args = (args[0], _indices(args[1]), *args[2:])
        if name == "new_tensor" and isinstance(args[0], Pretend):
            kwargs = {"device": CUDA, "dtype": args[0].dtype, **kwargs}
            func, args = torch.tensor, args[1:]
        if kwargs.get("device") is not None:
            device = _named(kwargs["device"])
            if func in (torch.tensor, torch.as_tensor, torch.asarray) and device != kwargs["device"]:
                return func(*args, **{**kwargs, "device": None}).to(device)
            kwargs = {**kwargs, "device": device}
        if name in LOW | FULL and torch.is_autocast_enabled("cuda"):
            low = torch.get_autocast_dtype("cuda")
            before, after = (torch.float32, low) if name in LOW else (low, torch.float32)

            def cast(one):
                return one.to(after) if one.dtype == before else one

            seen = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Pretend)]
            if seen:
                self.low += name in LOW
                args, kwargs = tree_map_only(Pretend, cast, (args, kwargs))
        return func(*args, **kwargs)


def _named(device):
    cuda = isinstance(device, str | torch.device) and str(device).partition(":")[0] == "cuda"
    return BELIEVED if cuda else device


def _indices(index):
    """Lists of numbers as tensors, which torch would make where it believes the indexed tensor to lie."""
    if isinstance(index, tuple):
        return tuple(map(_indices, index))
    return torch.tensor(index) if isinstance(index, list) else index


@contextlib.contextmanager
def pretended():
    """Within, ``cuda:0`` is there. Gives what counts the calls in low precision."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "is_available": True, "device_count": 1, "current_device": 0, "is_initialized": True,
            "is_bf16_supported": True, "get_device_name": "a pretend device", "synchronize": None,
            "empty_cache": None, "reset_peak_memory_stats": None, "max_memory_allocated": 0, "memory_allocated": 0,
            "mem_get_info": (2**34, 2**34), "_lazy_init": None, "manual_seed_all": None,
        }.items():  # fmt: skip
            patch.setattr(torch.cuda, name, lambda *given, value=value, **named: value)
        swapping = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)  # a Parameter that moves stays itself
        try:
            with _Device(), _Calls() as calls:
                yield calls
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swapping)


@pytest.fixture
def cuda():
    with pretended() as calls:
        yield calls
