"""The command line ``cbsae``: what people do without Python, one file per command.

What is heavy (torch, transformers, diffusers) is imported inside the commands: ``cbsae --help`` takes no second.
"""
