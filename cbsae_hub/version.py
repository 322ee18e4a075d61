"""The package version, stamped into every config and pack that the package writes."""

__version__ = "0.1.0"
