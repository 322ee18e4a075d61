"""The command line ``cbsae``, one file per command.

The commands import torch, transformers and diffusers inside their functions: ``cbsae --help`` takes no second.
"""
