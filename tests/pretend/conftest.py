"""The pretend device, and what is put on it."""

from digits_network import classifier, clean, digits, opened, trained  # noqa: F401
from planted_network import classifier as planted  # noqa: F401
from planted_network import clean as planted_clean  # noqa: F401
from planted_network import part  # noqa: F401
from pretend_device import cuda  # noqa: F401
