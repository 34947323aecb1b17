"""One file a command: options, settings, run, render, exit code. Nothing here imports torch or onnx."""
