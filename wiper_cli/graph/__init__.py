"""The graph audit: which paths lead from the pixels to the logits, and which of them no honest network has."""
