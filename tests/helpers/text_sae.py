"""A text encoder, texts, and an SAE of which two neurons each read the first letter of a word."""

from pathlib import Path

import torch
from steerable_models import ENDS, LETTERS, SPECIAL, TEXT, randomised, tokenizer
from transformers import CLIPTextConfig, CLIPTextModel

from cbsae_hub import SAE
from cbsae_hub.encoders import TextEncoder

WORDS = ["dog", "cat", "eel", "hut"]
PROMPTS = [f"{a} {b} <b>" for a in WORDS for b in WORDS if a != b]
PLANTED = ["dog", "hut"]


def text_encoder(layers: int = 1) -> CLIPTextModel:
    """A text encoder of CLIP, one token a letter, 16 at most."""
    settings = {**TEXT, **ENDS, "num_hidden_layers": layers, "max_position_embeddings": 16}
    return randomised(CLIPTextModel(CLIPTextConfig(**settings, vocab_size=len(SPECIAL + LETTERS))))


def planted(folder: Path) -> Path:
    """Writes ``clip``, ``prompts.txt`` and ``sae``, whose neurons 0 and 1 read :data:`PLANTED`; neuron 2 is dead."""
    (folder / "clip").mkdir()
    text_encoder().save_pretrained(folder / "clip")
    tokenizer(16, ends=True).save_pretrained(folder / "clip")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    encoder = TextEncoder.from_pretrained(folder / "clip", layer=0)
    x = torch.cat(encoder(PROMPTS))
    x, mean = x - x.mean(0), x.mean(0)
    letters = "".join(one.text[a:b] for one in encoder.passages(PROMPTS) for a, b in one.spans)
    sae = SAE(16, 3, "relu", seed=0, **{key: value for key, value in encoder.provenance().items() if value is not None})
    with torch.no_grad():
        sae.b_dec.copy_(mean)
        sae.W_enc.zero_()
        sae.b_enc.fill_(-1.0)
        for neuron, word in enumerate(PLANTED):
            wanted = torch.tensor([float(letter == word[0]) for letter in letters])
            sae.W_enc[:, neuron] = torch.linalg.lstsq(x, wanted - wanted.mean()).solution
            score = x @ sae.W_enc[:, neuron]
            sae.b_enc[neuron] = -(score[wanted == 1].min() + score[wanted == 0].max()) / 2
    sae.save_pretrained(folder / "sae")
    return folder
