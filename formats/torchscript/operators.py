"""Which operators, built-in functions and types the code of an archive may use.

An operator passes that occurs in reference models of torchvision and timm (``operators.json``, written by
:mod:`formats.torchscript.make_operators`) or stands below. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from formats.errors import Hostile, Unsupported

PATH = Path(__file__).with_name("operators.json")

#: What the reference models do not happen to use. Each computes its result from its arguments alone: it reads and
#: writes no file, no memory but its tensors, no state of the process, no clock, and draws no random number.
_REVIEWED = """
__and__ __or__ __xor__ abs acos acosh add_ addcdiv addcmul addmm amax amin argmax argmin asin asinh atan
atan2 atanh avg_pool1d avg_pool3d baddbmm bitwise_and bitwise_not bitwise_or bmm broadcast_tensors ceil celu
celu_ channel_shuffle clamp_ clamp_max clamp_max_ col2im constant_pad_nd conv1d conv3d conv_transpose1d
conv_transpose2d conv_transpose3d cos cosh cosine_similarity cumprod cumsum detach diag diag_embed diagonal
diff div_ dot elu elu_ erf erfc exp2 exp_ expm1 extend eye feature_dropout fft_fft fft_fft2 fft_fftshift
fft_ifft fft_ifft2 fft_ifftshift fft_irfft fft_irfft2 fft_rfft fft_rfft2 flip floor_ fmod frac full
full_like gather glu grid_sampler group_norm hardshrink hypot im2col imag index_add index_put index_put_
index_select insert instance_norm isclose isfinite isinf isnan items keys leaky_relu leaky_relu_ lerp
linspace log log10 log1p log2 log_sigmoid log_softmax logaddexp logical_and logical_not logical_or
logical_xor logit logsumexp masked_fill_ masked_scatter masked_select max max_pool1d max_pool2d_with_indices
max_pool3d maximum median min minimum mish mish_ mm movedim mul_ mv nan_to_num narrow native_group_norm
native_layer_norm neg_ nonzero one_hot ones ones_like outer pairwise_distance pixel_shuffle pixel_unshuffle
pop positive prelu prod real reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu6 relu6_
repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reverse rms_norm round rsqrt
scatter scatter_add selu selu_ sgn sign sin sinc sinh softplus softshrink sort sqrt_ square stack std
std_mean sub_ swapdims t take_along_dim tan tanh_ tensor_split threshold threshold_ tile topk tril triu
true_divide trunc type_as unfold values var var_mean view_as view_as_complex view_as_real where zeros
zeros_like
"""
#: Of torch.nn.TransformerEncoder, which the reference models do not use; pure as well.
_ENCODER = """
_nested_tensor_from_mask _nested_tensor_from_mask_left_aligned _transformer_encoder_layer_fwd
to_padded_tensor
"""
REVIEWED = frozenset((_REVIEWED + _ENCODER).split())
_BUILT_IN = frozenset(
    {
        "annotate",
        "unchecked_cast",
        "uninitialized",
        "isinstance",
        "getattr",
        "int",
        "float",
        "bool",
        "str",
        "sorted",
    }
)
_TYPES = frozenset(
    {"Tensor", "int", "float", "bool", "str", "NoneType", "number", "Scalar", "Device", "Any", "()"}
    | {"List", "Dict", "Tuple", "Optional", "Union", "Final"}
)

#: Operators that no network needs and that reach what is not its own: files, memory by address, other processes.
_REACHING = """
torch.save torch.from_file torch.load torch._load torch.set_ torch.set_data torch._nested_view_from_buffer
torch._nested_view_from_jagged torch._sparse_coo_tensor_unsafe torch._sparse_csr_tensor_unsafe
torch._sparse_compressed_tensor_unsafe ops.mkldnn.data_ptr ops.prim.PythonOp ops.prim.IgnoredPythonOp
ops.prim.rpc_async ops.prim.rpc_sync ops.prim.rpc_remote
"""
_REACHING_PACKAGES = (
    "inductor", "debugprims", "c10d", "_c10d_functional", "_c10d_functional_autograd", "symm_mem", "profiler",
)  # fmt: skip


@cache
def allowed() -> frozenset[str]:
    """Every name that passes."""
    reference = json.loads(PATH.read_bytes())["used"]
    return frozenset(reference) | _BUILT_IN | _TYPES | {f"torch.{name}" for name in REVIEWED}


def check_operators(used: Mapping[str, str]) -> None:
    """Hold names (see :attr:`formats.torchscript.words.Code.used`) against the lists; values are places.

    Raises Hostile (WIPER-TS-020) for what reaches beyond the network, Unsupported for all else that does not pass.
    """
    for name in sorted(used.keys() - allowed(), key=lambda name: not _reaches(name)):
        if _reaches(name):
            raise Hostile(
                f"The code calls {name[:100]}, which reaches files, memory or the process ({used[name]}).",
                "WIPER-TS-020", used[name],
            )  # fmt: skip
        raise Unsupported(
            f"The code uses {name[:100]} ({used[name]}), which is not among the operators of image classifiers."
        )


def _reaches(name: str) -> bool:
    root, _, rest = name.partition(".")
    return name in _REACHING.split() or (root == "ops" and rest.partition(".")[0] in _REACHING_PACKAGES)
