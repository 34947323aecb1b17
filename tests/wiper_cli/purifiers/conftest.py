from digits_network import classifier, clean, digits, opened, rates, removes, trained  # noqa: F401
