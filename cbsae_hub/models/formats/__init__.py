"""Readers of other projects' SAEs, a module each; :mod:`cbsae_hub.models.convert` is the entrance."""
