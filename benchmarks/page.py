"""How long a visitor waits: start-up, look-ups and inspections of the page, through HTTP, on the shipped model.

    python benchmarks/page.py --output page.json

Starts app.py in a process of its own and calls the handlers that the page calls.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer
from PIL import Image

from cbsae_hub import Pack

ROOT = Path(__file__).parents[1]
TARGETS = {"start_s": 15.0, "lookup_p95_s": 0.150, "upload_p95_s": 1.0}


def _start() -> tuple[subprocess.Popen, str, float]:
    """The page's process, its address, and the seconds until it was served."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    while process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return process, address, time.perf_counter() - start
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the page did not start: run app.py to see why")


def _call(address: str, handler: str, data: list) -> float:
    """Seconds from asking a handler to having its answer."""
    start = time.perf_counter()
    body, headers = json.dumps({"data": data}).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/gradio_api/call/{handler}", body, headers)
    with urllib.request.urlopen(request) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{address}/gradio_api/call/{handler}/{event}") as stream:
        if "event: complete" not in stream.read().decode():
            raise SystemExit(f"{handler} failed for {data}")
    return time.perf_counter() - start


def _upload(address: str, file: Path) -> float:
    """Seconds from sending a picture to having its inspection."""
    start = time.perf_counter()
    sent = httpx.post(f"{address}/gradio_api/upload", files={"files": (file.name, file.read_bytes(), "image/jpeg")})
    _call(address, "inspect", [{"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}])
    return time.perf_counter() - start


def main(
    lookups: Annotated[int, typer.Option(help="Searches to time.")] = 100,
    uploads: Annotated[int, typer.Option(help="Pictures to time.")] = 20,
    output: Annotated[Path | None, typer.Option(help="File for the figures as JSON.")] = None,
) -> None:
    """Time the page."""
    names = list(Pack.from_pretrained(ROOT / "hub" / "emoji-sae").vocabulary)
    rng = np.random.default_rng(0)
    queries = [*rng.choice(names, lookups // 2), *(f"{name} thing" for name in rng.choice(names, lookups // 4))]
    queries += [f"unknown{i}" for i in range(lookups - len(queries))]  # these ask the judge
    process, address, start = _start()
    try:
        time.sleep(10)  # encoder and judge are loaded in the background
        searched = [_call(address, "search", [str(query)]) for query in queries]
        inspected = []
        with tempfile.TemporaryDirectory() as folder:
            for i in range(uploads):
                file = Path(folder) / f"{i}.jpg"
                Image.fromarray(rng.integers(0, 256, (1200, 1600, 3), np.uint8)).save(file)
                inspected.append(_upload(address, file))
    finally:
        process.terminate()
    figures = {
        "start_s": start,
        **{f"lookup_p{q}_s": float(np.percentile(searched, q)) for q in (50, 95)},
        **{f"upload_p{q}_s": float(np.percentile(inspected, q)) for q in (50, 95)},
    }
    for name, value in figures.items():
        target = f"  (at most {TARGETS[name]:g})" if name in TARGETS else ""
        typer.echo(f"{name:14} {value:8.3f}{target}")
    if output:
        output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
