"""For developers; no part of the distribution."""
