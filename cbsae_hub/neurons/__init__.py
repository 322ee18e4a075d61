"""Readers of neurons: tables, packs, verdicts, search, pruning."""
