"""Two processes: the parent holds the pen, the child holds the model.

``parent`` imports neither torch nor onnx. ``child`` opens and computes. What crosses is JSON and safetensors
bytes in frames (``protocol``), never a pickled object.
"""
