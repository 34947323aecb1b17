"""One pipeline, scan to verify: what the worker, the bench and the zoo run, and Python may call."""
