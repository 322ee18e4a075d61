"""Ways of starting several processes, each tried as it is written in the docs."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest
import torch
import yaml

from cbsae_hub.processes import LOCK_NAME, FolderInUse, ProcessError, claimed, make_accelerator

NO_RANK = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
NO_RANK |= {"ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
PROGRAM = """
import sys
from pathlib import Path

import torch

from cbsae_hub.processes import claimed, make_accelerator

accelerator = make_accelerator()
total = accelerator.reduce(torch.ones(1, device=accelerator.device)).item()
with claimed(sys.argv[1], accelerator):
    Path(sys.argv[1], f"{accelerator.process_index}").write_text(f"{accelerator.num_processes} {total:g}")
    accelerator.wait_for_everyone()
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a program of this test in some way; ``wait=False`` returns it while it runs."""
    program = tmp_path / "program.py"

    def run(*way, text=PROGRAM, wait=True, **more):
        program.write_text(textwrap.dedent(text))
        environment = {name: value for name, value in os.environ.items() if name not in NO_RANK}
        environment |= {"HF_HOME": str(tmp_path / "no-config"), "OMP_NUM_THREADS": "1", **more}
        started = subprocess.Popen(
            [*map(str, way), str(program), str(tmp_path / "out")],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if not wait:
            return started
        started.output, started.errors = started.communicate(timeout=200)
        return started

    return run


def written(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def config(tmp_path):
    """Writes a config of Accelerate as ``accelerate config`` does."""

    def write(**changes):
        path = tmp_path / "accelerate.yaml"
        settings = {
            "compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "num_machines": 1,
            "num_processes": 2, "machine_rank": 0, "main_training_function": "main", "mixed_precision": "no",
            "use_cpu": False, "debug": False, "downcast_bf16": "no", "gpu_ids": "all", "same_network": True,
        }  # fmt: skip
        path.write_text(yaml.safe_dump(settings | changes))
        return path

    return write


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="starts processes on CPUs")
@pytest.mark.parametrize("way", ["torchrun", "accelerate", "config"])
def test_processes_that_were_started_together_know_of_each_other(start, config, tmp_path, way):
    launch = {
        "torchrun": TORCHRUN,
        "accelerate": [*ACCELERATE, "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"],
        "config": [*ACCELERATE, "--config_file", config(main_process_port=0)],
    }
    done = start(*launch[way])
    assert done.returncode == 0, done.errors
    assert written(tmp_path / "out") == {"0": "2 2", "1": "2 2"}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="starts processes on CPUs")
@pytest.mark.parametrize("way", ["cpu", "options", "config"])
def test_one_process_where_several_were_asked_for_stops_and_says_the_right_line(start, config, tmp_path, way):
    launch = {
        "cpu": [*ACCELERATE, "--cpu", "--num_processes", "2"],
        "options": [*ACCELERATE, "--num_processes", "2"],
        "config": [*ACCELERATE, "--config_file", config(distributed_type="MULTI_CPU", use_cpu=True)],
    }
    done = start(*launch[way])
    assert done.returncode != 0 and not (tmp_path / "out").exists()
    assert "torchrun --standalone --nproc_per_node N" in done.errors and "program.py" in done.errors


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="starts processes on CPUs")
def test_processes_of_mpi_know_of_each_other(start, tmp_path):
    """As mpirun starts them: it tells each its number, and no address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    names = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")
    ranks = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
    common = dict.fromkeys(names, "2") | {"MASTER_PORT": port}
    running = [start(sys.executable, wait=False, **common, **dict.fromkeys(ranks, str(rank))) for rank in range(2)]
    errors = [process.communicate(timeout=200)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    assert written(tmp_path / "out") == {"0": "2 2", "1": "2 2"}


@pytest.mark.slow
@pytest.mark.parametrize("way", [[sys.executable], [*ACCELERATE, "--cpu"], [*ACCELERATE, "--num_processes", "1"]])
def test_one_process_is_one(start, tmp_path, way):
    done = start(*way)
    assert done.returncode == 0, done.errors
    assert written(tmp_path / "out") == {"0": "1 1"}


def test_processes_that_cannot_find_each_other_stop(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["training/train_sae.py", "--set", "k=3"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ProcessError, match="2 processes were started for what one process does"):
        make_accelerator(alone=True)
    monkeypatch.setattr("cbsae_hub.processes._devices", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ProcessError, match="has 1 GPU: start as many"):
        make_accelerator()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # no LOCAL_RANK: Accelerate takes this process for the only one
    with pytest.raises(ProcessError, match=r"find 1 of them.*N training/train_sae.py --set k=3"):
        make_accelerator()
    monkeypatch.setattr(sys, "argv", ["/usr/bin/cbsae", "train", "--recipe", "my recipe.yaml"])
    with pytest.raises(ProcessError, match="N -m cbsae_hub train --recipe 'my recipe.yaml'"):
        make_accelerator()


def test_a_folder_in_use_is_refused_and_free_afterwards(tmp_path):
    folder = tmp_path / "new" / "out"
    with claimed(folder):
        owner = json.loads((folder / LOCK_NAME).read_text())
        assert owner == {"pid": os.getpid(), "host": socket.gethostname()}
        with pytest.raises(FolderInUse, match=f"another run, process {os.getpid()} on {socket.gethostname()}"):
            with claimed(folder):
                pass
        assert (folder / LOCK_NAME).exists(), "the refused one leaves the lock to its owner"
    assert not list(folder.iterdir())
    with pytest.raises(ZeroDivisionError), claimed(folder):
        raise ZeroDivisionError
    with claimed(folder):
        pass


def test_what_another_machine_left_is_believed(tmp_path):
    (tmp_path / LOCK_NAME).write_text('{"pid": 7, "host": "elsewhere"}')
    with pytest.raises(FolderInUse, match=f"process 7 on elsewhere: if that has ended, delete .*{LOCK_NAME}"):
        with claimed(tmp_path):
            pass
    (tmp_path / LOCK_NAME).unlink()
    for damaged in ("", "{", "[]"):
        (tmp_path / LOCK_NAME).write_text(damaged)
        with claimed(tmp_path):
            pass
        assert not (tmp_path / LOCK_NAME).exists()


@pytest.mark.slow
def test_a_killed_run_leaves_its_folder_to_the_next(start, tmp_path, caplog):
    caplog.set_level("INFO")
    text = """
    import sys, time
    from cbsae_hub.processes import claimed
    with claimed(sys.argv[1]):
        print("claimed", flush=True)
        time.sleep(100)
    """
    running = start(sys.executable, text=text, wait=False)
    assert running.stdout.readline() == "claimed\n"
    with pytest.raises(FolderInUse, match=f"process {running.pid} on"), claimed(tmp_path / "out"):
        pass
    running.send_signal(signal.SIGKILL)
    running.communicate()
    with claimed(tmp_path / "out"):
        assert f"left by a run that has ended, process {running.pid} on" in caplog.text
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="starts processes on CPUs")
def test_all_processes_stop_where_the_folder_is_in_use(start, tmp_path):
    with claimed(tmp_path / "out"):
        done = start(*TORCHRUN)
    assert done.returncode != 0 and not (tmp_path / "out" / "1").exists()
    assert done.errors.count("FolderInUse: ") >= 2
