"""Reads what is known of neurons: packs, names, verdicts, search, pruning."""
