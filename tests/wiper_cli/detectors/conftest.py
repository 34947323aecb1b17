from planted_network import classifier, clean, part  # noqa: F401
