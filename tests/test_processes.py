"""Ways of starting several processes, each tried as it is written in the docs."""

import json
import os
import socket
import sys
import time

import pytest
import torch
import yaml
from scripts import free_port, run_program, run_together, start_program

from cbsae_hub.processes import LOCK_NAME, FolderInUse, ProcessError, claimed, make_accelerator

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = ["-m", "accelerate.commands.launch"]
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
CLAIM = """
import sys, time
from cbsae_hub.processes import claimed
with claimed(sys.argv[1]):
    print("claimed", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def program(tmp_path):
    """PROGRAM as a file."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def start(program, tmp_path):
    """Starts the program in some way."""
    return lambda *way: run_program(*way, program, tmp_path / "out", cwd=tmp_path, HF_HOME=str(tmp_path / "no-config"))


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
    assert done.returncode == 0, done.stderr
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
    assert "torchrun --standalone --nproc_per_node N" in done.stderr and "program.py" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="starts processes on CPUs")
def test_processes_of_mpi_know_of_each_other(program, tmp_path):
    """As mpirun starts them: it tells each its number, and no address."""
    names = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")
    ranks = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
    common = dict.fromkeys(names, "2") | {"MASTER_PORT": str(free_port())}
    environments = [common | dict.fromkeys(ranks, str(rank)) for rank in range(2)]
    done = run_together([program, tmp_path / "out"], environments, tmp_path)
    assert done.returncodes == [0, 0], done.stderr
    assert written(tmp_path / "out") == {"0": "2 2", "1": "2 2"}


@pytest.mark.slow
@pytest.mark.parametrize("way", [[], [*ACCELERATE, "--cpu"], [*ACCELERATE, "--num_processes", "1"]])
def test_one_process_is_one(start, tmp_path, way):
    done = start(*way)
    assert done.returncode == 0, done.stderr
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
def test_a_killed_run_leaves_its_folder_to_the_next(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "program.py").write_text(CLAIM)
    output = tmp_path / "output.txt"
    running = start_program(tmp_path / "program.py", tmp_path / "out", cwd=tmp_path, stdout=output, stderr=output)
    while not output.exists() or output.read_text() != "claimed\n":
        assert running.is_alive()
        time.sleep(0.01)
    with pytest.raises(FolderInUse, match=f"process {running.pid} on"), claimed(tmp_path / "out"):
        pass
    running.kill()
    running.join()
    with claimed(tmp_path / "out"):
        assert f"left by a run that has ended, process {running.pid} on" in caplog.text
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="starts processes on CPUs")
def test_all_processes_stop_where_the_folder_is_in_use(start, tmp_path):
    with claimed(tmp_path / "out"):
        done = start(*TORCHRUN)
    assert done.returncode != 0 and not (tmp_path / "out" / "1").exists()
    assert done.stderr.count("FolderInUse: ") >= 2
