"""Seconds that imports and commands take before they do anything, each in a process of its own.

    python benchmarks/imports.py

Prints a table: the least of several runs, and the ratio to ``import torch``.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parents[1]
IMPORTS = {
    "import torch": "import torch",
    "import cbsae_hub": "import cbsae_hub",
    "from cbsae_hub import SAE": "from cbsae_hub import SAE",
    "cbsae find MODEL CONCEPT": (
        "from cbsae_hub.cli.app import app\napp(['find', 'hub/emoji-cbsae', 'pizza'], standalone_mode=False)"
    ),
    "what training an SAE imports": "import cbsae_hub.trainers.sae.trainer",
    "what scoring imports": "import cbsae_hub.scoring.scorer",
    "what steering LLaVA imports": "import cbsae_hub.steering.llava",
    "what the page imports": "import cbsae_hub.studio",
}


def seconds(code: str) -> float:
    """Wall time of one process that runs the code."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(runs: Annotated[int, typer.Option(min=1, help="Runs of each; the least counts.")] = 5) -> None:
    """Prints the table."""
    empty = min(seconds("pass") for _ in range(runs))
    least = {name: float("inf") for name in IMPORTS}
    for _ in range(runs):  # one after the other, so that a slow minute meets all of them
        for name, code in IMPORTS.items():
            least[name] = min(least[name], seconds(code))
    typer.echo(f"Python alone takes {empty:.2f} s, which is in all figures.\n")
    typer.echo("| what | seconds | of `import torch` |\n|---|---|---|")
    for name, value in least.items():
        typer.echo(f"| {name} | {value:.2f} | {value / least['import torch']:.2f} |")


if __name__ == "__main__":
    typer.run(main)
