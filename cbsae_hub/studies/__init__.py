"""Reproduces tables and figures of the papers: a file for each study."""
