"""What is put before every row of a table."""

from digits_network import classifier, clean, digits, opened, rates, trained  # noqa: F401
from drawn_head import make_head  # noqa: F401
from planted_network import classifier as planted  # noqa: F401
from planted_network import clean as planted_clean  # noqa: F401
from planted_network import part  # noqa: F401
from sample_reports import make, sample, sample_names  # noqa: F401
from trigger_families import images, trigger, unfitted, victim  # noqa: F401
