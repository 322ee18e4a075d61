"""Measures the page: how long visitors wait, alone and with others, and what a request costs and leaves behind.

    python benchmarks/space.py --output space.json

Starts app.py in a process of its own, with the shipped models, and talks to it as clients do. Look-ups are searches and
neuron pages; sentences and pictures are steered with neurons and strengths that differ from request to request, so that
nothing is answered from memory. Ratios to the models alone, run in this process, say what the page adds.
"""

import base64
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import torch
import typer
from PIL import Image
from tqdm import tqdm

from cbsae_hub import CBSAE, Edit, Pack, Steering
from cbsae_hub.hub.files import write_json
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.steering import LlavaSteerer, RandomDirection, UnclipSteerer

ROOT = Path(__file__).parents[1]
HUB = ROOT / "hub"
USERS = (1, 8, 32)
TARGETS = {
    "start": 15.0, "first_paint": 0.6, "click": 1.2, "lookup_p95_at_1": 0.150, "lookup_p95_at_32": 1.0,
    "sentence_p95_at_1": 1.5, "picture_p95_at_1": 4.0,
}  # fmt: skip
GUIDANCE = 2.5


@contextmanager
def page() -> Iterator[tuple[str, int, float]]:
    """The page: its address, its process, and the seconds until it was served."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py"), "--port", str(port)], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": folder},
        )  # fmt: skip
        address = f"http://127.0.0.1:{port}"
        try:
            while process.poll() is None:
                try:
                    httpx.get(address, timeout=5)
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            else:
                raise SystemExit("the page did not start: run app.py to see why")
            yield address, process.pid, time.perf_counter() - start
        finally:
            process.terminate()
            process.wait()


def call(client: httpx.Client, endpoint: str, *arguments: Any, new: bool = False) -> float:
    """Seconds from asking an endpoint to having its answer, by a visitor with a session, as in a browser.

    Or by a new one, who was never there, as with curl: they all leave a session behind.
    """
    start = time.perf_counter()
    body = {"data": arguments} | ({} if new else {"session_hash": f"visitor{id(client)}"})
    event = client.post(f"/gradio_api/call/{endpoint}", json=body).json()["event_id"]
    answer = client.get(f"/gradio_api/call/{endpoint}/{event}").text
    if "event: complete" not in answer:
        raise SystemExit(f"{endpoint} failed for {str(arguments)[:200]}: {answer[:200]}")
    return time.perf_counter() - start


class Requests:
    """Requests that nobody has made before, to a model with this pack."""

    def __init__(self, pack: Pack):
        self.names = sorted({row.name for row in pack.neurons if row.name})
        self.neurons = len(pack.neurons)
        self.images = pack.image_ids()

    def lookup(self, rng: np.random.Generator) -> tuple[Any, ...]:
        """A search for a name, or for what no neuron stands for; or a neuron's page."""
        kind = rng.integers(3)
        if kind == 0:
            return "neuron_info", int(rng.integers(self.neurons)), ""
        unknown = f"thing {rng.integers(10**6)}"  # the judge is asked what is near in meaning
        return "find_neurons", str(rng.choice(self.names)) if kind == 1 else unknown, 10, ""

    def edits(self, rng: np.random.Generator) -> list[dict[str, Any]]:
        """One or two neurons at some strength."""
        ids = rng.choice(self.neurons, rng.integers(1, 3), replace=False)
        return [{"neuron": int(neuron), "value": float(rng.uniform(20, 60))} for neuron in ids]

    def sentence(self, rng: np.random.Generator) -> tuple[Any, ...]:
        """A steered answer of a few words, with its controls and probabilities."""
        picture, question = f"s{rng.choice(self.images)}", "Describe the image."
        return "steer_caption", picture, question, self.edits(rng), False, "set", False, "", ""

    def picture(self, rng: np.random.Generator) -> tuple[Any, ...]:
        """A steered picture of 20 steps, with its two controls."""
        seed = int(rng.integers(10**6))
        return "steer_image", f"s{rng.choice(self.images)}", self.edits(rng), seed, 20, False, "set", False, ""

    def inspection(self, rng: np.random.Generator) -> tuple[Any, ...]:
        """A picture of one's own."""
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8)).save(buffer, "jpeg")
        return "encode_image", base64.b64encode(buffer.getvalue()).decode(), 10, ""


def waits(address: str, make: Callable[[np.random.Generator], tuple[Any, ...]], users: int, each: int) -> list[float]:
    """Seconds that visitors wait who all ask one thing after the other."""

    def visit(seed: int) -> list[float]:
        rng = np.random.default_rng([seed, users])
        with httpx.Client(base_url=address, timeout=300) as client:
            return [call(client, *make(rng)) for _ in range(each)]

    with ThreadPoolExecutor(users) as pool:
        return [seconds for one in pool.map(visit, range(users)) for seconds in one]


def memory(pid: int) -> float:
    """Resident memory of a process, MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def work_of(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def growth(address: str, pid: int, requests: Requests, count: int) -> dict[str, float]:
    """Memory after more and more requests of all kinds, each by a new visitor, once as many are there as are kept."""
    rng, sizes = np.random.default_rng(7), {}
    kinds = (requests.lookup, requests.inspection, requests.sentence, requests.picture)
    with httpx.Client(base_url=address, timeout=300) as client:
        for number in tqdm(range(count + 1), desc="memory"):
            if number in (4 * count // 10, 7 * count // 10, count):
                sizes[f"memory_mb_after_{number}"] = memory(pid)
            call(client, *kinds[rng.choice(4, p=(0.5, 0.2, 0.2, 0.1))](rng), new=True)
    return sizes


def abandoned(address: str, pid: int) -> dict[str, float]:
    """CPU seconds of a long drawing, of one whose visitor leaves at once, and of one whose visitor presses Stop.

    Handlers are called as the page calls them, in a session of a visitor.
    """
    config = httpx.get(f"{address}/config").json()["dependencies"]
    index = {dependency["api_name"]: dependency["id"] for dependency in config}
    seeds = iter(range(1000, 2000, 10))

    def draw(end: str) -> float:
        session, before = f"benchmark{next(seeds)}", work_of(pid)
        where, how = "In the picture", "set the neuron"
        data = [None, None, None, where, how, False, "", next(seeds), 4, 30]
        with httpx.Client(base_url=address, timeout=120) as client:
            join = {"data": data, "fn_index": index["draw"], "session_hash": session}
            client.post("/gradio_api/queue/join", json=join)
            with client.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as stream:
                last = ("process_completed",) if end == "whole" else ("process_completed", "process_generating")
                next((line for line in stream.iter_lines() if any(event in line for event in last)), None)
                if end == "stop":
                    stop = {"data": [], "fn_index": index["_stop_1"], "session_hash": session}
                    client.post("/gradio_api/queue/join", json=stop)
        time.sleep(6)
        return work_of(pid) - before

    return {f"cpu_s_of_a_drawing_{end}": draw(end) for end in ("whole", "left", "stop")}


def first_paint(address: str) -> dict[str, float]:
    """Seconds until a browser that was never here paints, shows all of Start, and has done what a click says.

    And the size of the HTML as it is sent.
    """
    from playwright.sync_api import sync_playwright

    seconds: dict[str, list[float]] = {"first_paint": [], "usable": [], "click": []}
    with sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        for what in ["usable", "click"] * 5:
            context = browser.new_context()
            tab = context.new_page()
            start = time.perf_counter()
            tab.goto(address)
            if what == "usable":
                tab.locator(".cb-example button").first.wait_for()
            else:
                tab.get_by_role("tab", name="Find concept").click()
                tab.locator("#query").wait_for()
            seconds[what].append(time.perf_counter() - start)
            script = "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
            seconds["first_paint"].append(tab.evaluate(script))
            context.close()
        browser.close()
    with httpx.stream("GET", address, headers={"Accept-Encoding": "gzip"}) as sent:
        size = sum(len(part) for part in sent.iter_raw())
    return {name: float(np.median(values)) for name, values in seconds.items()} | {"html_kb": size / 1000}


def alone(requests: Requests, pack: Pack, count: int = 20) -> dict[str, float]:
    """Median seconds of the models without the page: the same sentences and pictures, batched as the page does."""
    torch.set_num_threads(2)
    cb = CBSAE.from_pretrained(HUB / "emoji-cbsae")
    llava = LlavaSteerer.from_pretrained(HUB / "emoji-llava", cb, pack)
    unclip = UnclipSteerer.from_pretrained(HUB / "emoji-unclip", cb, pack)
    rng = np.random.default_rng(3)
    times: dict[str, list[float]] = {"sentence": [], "picture": []}
    for _ in range(count + 1):
        _, name, question, edits, *_ = requests.sentence(rng)
        steering = Steering([Edit(**edit) for edit in edits])
        picture = pack.image(int(name[1:]))
        start = time.perf_counter()
        features = llava.image_features([picture] * 4, [None, Steering([]), steering, RandomDirection(steering, 0)])
        llava.answer(features, [question] * 4, 48)
        llava.probability(features, ONE_WORD, "thing")
        times["sentence"].append(time.perf_counter() - start)
        start = time.perf_counter()
        unclip.generate([picture] * 3, [None, steering, RandomDirection(steering, 0)], [0], 20, GUIDANCE)
        times["picture"].append(time.perf_counter() - start)
    return {name: float(np.median(values[1:])) for name, values in times.items()}


def main(
    each: Annotated[int, typer.Option(help="Look-ups of each user.")] = 20,
    requests: Annotated[int, typer.Option(help="Requests after which memory must be what it was.")] = 1000,
    output: Annotated[Path | None, typer.Option(help="JSON file of the figures.")] = None,
) -> None:
    """Measures, prints and writes JSON."""
    pack = Pack.from_pretrained(HUB / "emoji-cbsae")
    visitors = Requests(pack)
    figures: dict[str, float] = {}
    with page() as (address, pid, start):
        figures["start"] = start
        time.sleep(15)  # models are loaded in the background
        waits(address, visitors.lookup, 2, 3)
        if shutil.which("chromium"):
            figures |= first_paint(address)
        for users in USERS:
            for name, make, count in (
                ("lookup", visitors.lookup, each), ("sentence", visitors.sentence, max(2, 20 // users)),
                ("picture", visitors.picture, max(2, 10 // users)),
            ):  # fmt: skip
                seconds = waits(address, make, users, count)
                figures |= {f"{name}_p{q}_at_{users}": float(np.percentile(seconds, q)) for q in (50, 95)}
        figures |= abandoned(address, pid)
        figures |= growth(address, pid, visitors, requests)
    models = alone(visitors, pack)
    figures |= {f"{name}_over_model_alone": figures[f"{name}_p50_at_1"] / value for name, value in models.items()}
    for name, value in figures.items():
        target = f"  (at most {TARGETS[name]:g})" if name in TARGETS else ""
        typer.echo(f"{name:28} {value:10.3f}{target}")
    if output:
        write_json(output, figures)


if __name__ == "__main__":
    typer.run(main)
