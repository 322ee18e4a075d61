"""Seconds of ``cbsae explain``, from the command to the report.

    python benchmarks/explain.py

For emoji-clip and 5,000 drawn pictures of Emoji World, and for a small ViT with random weights and 600 pictures of
mixed sizes. Writes ``benchmarks/results/explain.json``: wall time, and CPU time of the whole process with its imports.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTImageProcessor, ViTModel

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "explain.json"


def draw_scenes(folder: Path, count: int) -> None:
    """Writes scenes of Emoji World as they come."""
    from training.emoji_world.scenes import scene_dataset

    folder.mkdir(parents=True)
    scenes = scene_dataset(seed=77, count=count)
    for i in range(count):
        scenes[i]["image"].save(folder / f"{i:05d}.png")


def make_own(folder: Path) -> None:
    """Writes a ViT of 12 layers, width 192, with random weights, and 600 pictures of mixed sizes."""
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768,
                       image_size=96, patch_size=16)  # fmt: skip
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder / "vit")
    ViTImageProcessor(size={"height": 96, "width": 96}).save_pretrained(folder / "vit")
    (folder / "own").mkdir()
    rng = np.random.default_rng(0)
    for i in range(600):
        coarse = rng.integers(0, 256, (*rng.integers(2, 9, 2), 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(tuple(rng.integers(60, 400, 2).tolist())).save(folder / "own" / f"{i}.jpg")


def measure(folder: Path, *arguments: str) -> dict[str, float]:
    """Wall and CPU seconds of the command."""
    command = [sys.executable, "-m", "cbsae_hub", "explain", *arguments, "--output", str(folder / "answer"), "--json"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = json.loads(answer.stdout)
    return {
        "wall": round(wall, 1),
        "cpu": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "images": summary["images"],
        "neurons": summary["neurons"],
        "explained_variance": summary["explained_variance"],
        "names": summary.get("names"),
    }


def main() -> None:
    """Measures both."""
    hub, results = ROOT / "hub", {"load": os.getloadavg()[0], "threads": os.environ.get("OMP_NUM_THREADS")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_own(folder)
        draw_scenes(folder / "scenes", 5000)
        own = str(folder / "vit"), str(folder / "own"), "--judge", str(hub / "emoji-judge")
        results["own ViT, 600 pictures"] = measure(folder / "a", *own)
        results["emoji-clip, 5,000 pictures"] = measure(folder / "b", str(hub / "emoji-clip"), str(folder / "scenes"))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
