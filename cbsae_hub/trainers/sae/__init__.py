"""Trains an SAE: the trainer, its step, its state."""
