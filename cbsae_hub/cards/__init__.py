"""A model's README, written from its files."""
