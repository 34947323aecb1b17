from drawn_head import make_head  # noqa: F401
