"""Many independent pieces of work: on this machine, or on a Ray cluster."""
