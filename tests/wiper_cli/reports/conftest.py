from sample_reports import make, sample, sample_names  # noqa: F401
