"""One folder a method: its settings (no torch) in ``__init__``, the method itself in ``method``."""
