import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cbsae_hub import SAE

D_IN, D_SAE, K = 12, 48, 4
GROUPS = (6, 12, 30)


@pytest.fixture
def make_sae():
    """Makes SAEs in double precision in which every parameter has its own random value."""

    def make(activation="batch_topk", groups=False):
        sae = SAE(D_IN, D_SAE, activation, K, GROUPS if groups else None, seed=0).double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in sae.named_parameters():
                if name not in ("W_dec", "threshold"):
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        return sae

    return make


@pytest.fixture
def x():
    return torch.randn(40, D_IN, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture
def run_training():
    """Starts small_run.py with these runs on ``processes`` gloo processes; returns their exit codes."""

    def start(*runs, processes=1, **environment):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        environment |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        if processes > 1:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
        program = str(Path(__file__).parents[1] / "helpers" / "small_run.py")
        command = [sys.executable, program, json.dumps(runs, default=str)]
        running = []
        for rank in range(processes):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            running.append(subprocess.Popen(command, env=os.environ | environment | ranks))
        return [process.wait(timeout=120) for process in running]

    return start
