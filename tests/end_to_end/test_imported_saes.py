"""SAEs of every format, normalised tokens included, through the whole package: pack, page, steering, a bottleneck."""

import json

import numpy as np
import pytest
import torch
from foreign_files import (
    Weights,
    dl_matryoshka,
    largest,
    layer_norm,
    prisma,
    prisma_vanilla,
    relu,
    saelens_constant_norm,
    saelens_jumprelu,
    saev_topk,
    sparsify,
)
from PIL import Image
from small_hub import CONCEPTS, Pictures, make_hub

import cbsae_hub
from cbsae_hub import CBSAE, Pack
from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.extraction import extract
from cbsae_hub.models.convert import import_sae
from cbsae_hub.pack_builder import build_pack
from cbsae_hub.scoring import NeuronScorer, Truth
from cbsae_hub.steering import Edit, Steering, apply
from cbsae_hub.studio.loaded import Loaded

WRITERS = [saelens_jumprelu, saelens_constant_norm, dl_matryoshka, sparsify, saev_topk, prisma_vanilla]
PICTURES = Pictures(24)
