"""The ``wiper`` command and the defence itself: scan, purify, verify an image classifier as deployed."""

__version__ = "0.1.0"
