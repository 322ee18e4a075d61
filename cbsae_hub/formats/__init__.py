"""Readers of other projects' SAEs, a module each; :mod:`cbsae_hub.formats.convert` is the entrance."""
