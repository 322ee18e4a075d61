"""SAEs of every variant."""

from sae_variants import make_sae, sae, variant, x  # noqa: F401
