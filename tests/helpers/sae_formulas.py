"""Latents of every variant, written again in numpy and float64."""

import numpy as np


def reference_latents(sae, x):
    """Latents by the definition of each variant (SAELens' forward; for topk, a sort of each row)."""
    p = {name: value.double().numpy() for name, value in sae.state_dict().items()}
    product = (np.asarray(x, dtype=np.float64) - p["b_dec"]) @ p["W_enc"]
    if sae.activation == "gated":
        magnitude = product * np.exp(p["r_mag"]) + p["b_mag"]
        return (product + p["b_gate"] > 0) * np.maximum(magnitude, 0)
    pre = np.maximum(product + p["b_enc"], 0)
    if sae.activation in ("batch_topk", "jumprelu"):
        return pre * (pre > p["threshold"])
    if sae.activation == "topk":
        kth_largest = -np.sort(-pre, axis=-1)[..., [min(sae.k, sae.d_sae) - 1]]
        return pre * (pre >= kth_largest)
    return pre
