"""``cbsae serve``; the page itself is tested in a browser."""

import json
import os
import signal
import socket
import time
import urllib.request
from pathlib import Path

import pytest
from scripts import free_port, start_program

from cbsae_hub.studio.serve import require_free

ROOT = Path(__file__).parents[2]


@pytest.fixture
def taken():
    """A port that somebody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_port_in_use_is_a_sentence_that_says_what_to_do(answer, cbsae, taken):
    told = answer("serve", "hub/emoji-sae", "--port", taken, code=1)
    assert told["error"].startswith(f"port {taken} is in use") and f"--port {taken + 1}" in told["error"]
    result = cbsae("serve", "hub/emoji-sae", "--port", taken)
    assert result.exit_code == 1 and result.stdout == "" and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("host", "port"), [("no.such.host.invalid", 7860), ("203.0.113.1", 7860), ("127.0.0.1", 70000)]
)
def test_where_nothing_can_listen_that_is_said(host, port):
    with pytest.raises(
        OSError, match=f"nothing can listen on {host}, port {port}: .*; choose others, --host and --port"
    ):
        require_free(host, port)


def test_a_model_that_is_not_there_is_a_sentence(answer):
    assert "nowhere" in answer("serve", "runs/nowhere", code=1)["error"]
    assert answer("serve", "hub/emoji-clip", code=1)["error"]


@pytest.mark.slow
def test_the_page_is_served_at_the_address_that_is_told(tmp_path):
    port, stdout, stderr = free_port(), tmp_path / "stdout.txt", tmp_path / "stderr.txt"
    process = start_program(
        "-m", "cbsae_hub", "serve", ROOT / "hub" / "emoji-sae", "--port", port, "--json",
        cwd=tmp_path, stdout=stdout, stderr=stderr, GRADIO_TEMP_DIR=str(tmp_path / "gradio"),
    )  # fmt: skip
    try:
        while not stdout.exists() or not stdout.read_text().endswith("}\n"):
            assert process.is_alive(), stderr.read_text()
            time.sleep(0.1)
        told = json.loads(stdout.read_text())
        assert told["url"].rstrip("/") == f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(told["url"], timeout=30) as answer:
            assert answer.status == 200
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.join(30)
    assert process.exitcode == 0 and "Traceback" not in stderr.read_text()
