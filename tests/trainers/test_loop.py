import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import pytest

from cbsae_hub.trainers.loop import _command


@pytest.mark.parametrize(
    ("program", "module", "command"),
    [
        ("/home/me/venv/bin/cbsae", None, "cbsae --set 'a=b c'"),
        ("/home/me/cbsae_hub/cli/__main__.py", "cbsae_hub.cli.__main__", "cbsae --set 'a=b c'"),
        ("/home/me/cbsae_hub/__main__.py", "cbsae_hub.__main__", "cbsae --set 'a=b c'"),
        ("/home/me/training/train_sae.py", "training.train_sae", "python -m training.train_sae --set 'a=b c'"),
        ("training/train_sae.py", None, "python3 training/train_sae.py --set 'a=b c'"),
        ("/home/me/own.py", None, "python3 own.py --set 'a=b c'"),
    ],
)
def test_the_command_that_is_recorded_has_no_folders_of_the_machine(monkeypatch, program, module, command):
    spec = module and ModuleSpec(module, None)
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=spec))
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    monkeypatch.setattr(sys, "argv", [program, "--set", "a=b c"])
    assert _command() == command
