"""Trains the concept bottleneck of a CB-SAE beside a frozen SAE."""
