"""The hand-made networks of the detectors' tests."""

from planted_network import classifier as planted  # noqa: F401
from planted_network import clean as planted_clean  # noqa: F401
