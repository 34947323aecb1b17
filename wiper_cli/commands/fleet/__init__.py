"""Several models in one run: which they are, how each is examined, here or elsewhere, and what is left of it."""
