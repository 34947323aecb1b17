from sample_reports import make  # noqa: F401
