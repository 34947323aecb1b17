"""The operators that an ONNX file may use: those of the standard, and those that onnxruntime's own tools write.

Left out: what draws random numbers, reads text or pictures, repeats without a bound (Scan, SequenceMap), trains,
or belongs to language models. What is listed is not thereby computed here: see :mod:`formats.onnx.operators`.
"""

from __future__ import annotations

from collections.abc import Mapping

_STANDARD = """
Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu CenterCropPad Clip Col2Im Compress
Concat ConcatFromSequence Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumProd CumSum DFT
DeformConv DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike
Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf
IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul
MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression
NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN Range Reciprocal
ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round Scatter ScatterElements ScatterND Selu SequenceAt
SequenceConstruct SequenceEmpty SequenceInsert SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax
Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze Sub Sum SwiGLU Swish Tan Tanh ThresholdedRelu Tile
TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
"""
#: Of onnxruntime's quantisation and of its optimiser.
_MICROSOFT = """
Attention BiasAdd BiasGelu BiasSoftmax DequantizeLinear DynamicQuantizeMatMul FastGelu FusedConv FusedGemm
FusedMatMul FusedMatMulActivation Gelu GroupNorm Inverse MatMulInteger16 MatMulIntegerToFloat MulInteger
MultiHeadAttention NhwcConv NhwcFusedConv NhwcMaxPool QAttention QGemm QLinearAdd QLinearAveragePool QLinearConcat
QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax
QLinearWhere QuantizeLinear QuickGelu ReduceSumInteger RelativePositionBias SkipGroupNorm SkipLayerNormalization
SkipSimplifiedLayerNormalization TransposeMatMul
"""
_NCHWC = "AveragePool Conv GlobalAveragePool GlobalMaxPool MaxPool ReorderInput ReorderOutput Upsample"

#: Domain ("" is also called ai.onnx) → operators. No function of a file may stand in one of these domains.
ALLOWED: Mapping[str, frozenset[str]] = {
    # The last two are onnxruntime's own, in the domain of the standard.
    "": frozenset((*_STANDARD.split(), "ImageScaler", "SimplifiedLayerNormalization")),
    "ai.onnx.ml": frozenset(("ArrayFeatureExtractor", "LabelEncoder", "Normalizer", "Scaler", "ZipMap")),
    "com.microsoft": frozenset(_MICROSOFT.split()),
    "com.microsoft.nchwc": frozenset(_NCHWC.split()),
}

#: Operators by which a runtime is asked to run a program, wherever they are defined.
PROGRAMS = frozenset(("ATen", "ATenOp", "PyCustomOp", "PyOp", "PythonOp", "PythonOpGrad", "TritonOp"))
