"""Two processes: the parent holds the pen, the child holds the model.

``parent`` imports neither torch nor onnx. ``child`` opens and computes or, as a ``gate``, judges and writes bytes. What
crosses is JSON and safetensors bytes in frames (``protocol``), never a pickled object.
"""
