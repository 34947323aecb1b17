"""Clean images: decoded, labelled, split, prepared for a network."""
