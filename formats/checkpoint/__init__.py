"""Checkpoints that ``torch.save`` wrote: pickles, which are read as data and never loaded, and become safetensors."""
