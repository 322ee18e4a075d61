"""Files that were made to do harm, or that are damaged: an error each, and nothing is run."""

import json
import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from foreign_files import EVERY, Weights, dl_batch_topk, prisma, saev
from safetensors.torch import load_file, save_file

from cbsae_hub.formats.convert import import_sae
from cbsae_hub.formats.pickled import Inert, read_tensors
from cbsae_hub.models import ConfigError, ModelFileError


class Runs:
    """Pickles into a call."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def matrices():
    w = Weights()
    return {"W_enc": w.enc, "b_enc": w.b_enc, "W_dec": w.dec, "b_dec": w.b_dec}


@pytest.mark.parametrize("place", ["beside", "key", "metadata", "whole"])
@pytest.mark.parametrize("kind", ["system", "eval", "getattr", "torch", "state"])
def test_nothing_in_a_pickle_is_run(tmp_path, place, kind):
    trace = tmp_path / "it-was-run"
    hostile = {
        "system": Runs(os.system, f"touch {trace}"),
        "eval": Runs(eval, f"open({str(trace)!r}, 'w')"),
        "getattr": Runs(getattr, Runs(__import__, "os"), "system"),
        "torch": Runs(torch.save, torch.zeros(1), str(trace)),
        "state": Runs(OrderedDict, state={"items": Runs(os.system, f"touch {trace}"), "get": 1}),
    }[kind]
    if kind == "getattr":
        hostile = [hostile, Runs(os.system, f"touch {trace}")]
    prisma(tmp_path, Weights(), pickled=False)
    content = {
        "beside": {"cfg": hostile, "state_dict": matrices()},
        "key": {"state_dict": matrices(), "optimizer": {"state": [hostile, {1: hostile}]}},
        "metadata": OrderedDict(matrices() | {"extra": hostile}),
        "whole": hostile,
    }[place]
    torch.save(content, tmp_path / "n_images_2600058.pt")
    if place == "whole":
        with pytest.raises(ModelFileError, match="holds no weights"):
            import_sae(tmp_path)
    else:
        sae = import_sae(tmp_path)
        assert torch.equal(sae.W_enc, Weights().enc)
        assert "pickled config, which was not read" in " ".join(sae.imported_from["notes"])
    assert not trace.exists()


def test_the_hostile_files_would_have_done_it(tmp_path):
    """The test above is of something: Python itself runs such a file."""
    trace = tmp_path / "it-was-run"
    torch.save({"cfg": Runs(os.system, f"touch {trace}")}, tmp_path / "x.pt")
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert trace.exists()


def test_a_placeholder_takes_everything_and_does_nothing():
    one = Inert(1, two=3)
    one.__setstate__({"x": 1})
    one["y"] = 2
    one.append(1)
    one.extend([1])
    assert one("z") is one and vars(one) == {}


class Written:
    """A .pt archive with a pickle of one's own making."""

    def __init__(self, folder):
        self.path = folder / "n_images_1.pt"

    def write(self, program: bytes, storages=None, compression=zipfile.ZIP_STORED, byteorder="little"):
        with zipfile.ZipFile(self.path, "w", compression) as archive:
            archive.writestr("archive/version", "3")
            archive.writestr("archive/byteorder", byteorder)
            archive.writestr("archive/data.pkl", program)
            for key, content in (storages or {}).items():
                archive.writestr(f"archive/data/{key}", content)
        return self.path


class _Storages(pickle.Pickler):
    def persistent_id(self, value):
        return value.pid if isinstance(value, Storage) else None


class Storage:
    def __init__(self, key="0", count=4, kind="storage", of=torch.FloatStorage):
        self.pid = (kind, of, key, "cpu", count)


class Unreadable:
    """What torch refuses, so that the careful reader comes into play."""


def program(size, stride, offset=0, storage=None):
    import io

    tensor = Runs(torch._utils._rebuild_tensor_v2, storage or Storage(), offset, size, stride, False, OrderedDict())
    file = io.BytesIO()
    _Storages(file, protocol=2).dump({"W_enc": tensor, "cfg": Runs(os.getcwd)})
    return file.getvalue()


def test_the_careful_reader_reads_tensors(tmp_path):
    content = torch.arange(4.0).numpy().tobytes()
    read = read_tensors(Written(tmp_path).write(program((2, 2), (1, 2)), {"0": content}), "x")
    assert read.incomplete and torch.equal(read.tensors["W_enc"], torch.tensor([[0.0, 2.0], [1.0, 3.0]]))


@pytest.mark.parametrize(
    "bad",
    [
        program((2, 3), (1, 2)),
        program((4,), (1,), 1),
        program((2,), (-1,)),
        program((2**40,), (0,)),
        program((2, 2), (1,)),
        program(("2",), (1,)),
        program((4,), (1,), storage=Storage(count=5)),
        program((4,), (1,), storage=Storage(key="../../etc")),
        program((4,), (1,), storage=Storage(key="7")),
        program((4,), (1,), storage=Storage(kind="file")),
        program((4,), (1,), storage=Storage(of=Unreadable)),
        b"\x80\x02cos\ngetcwd\n)R",
        b"not a pickle",
        b"",
    ],
)
def test_tensors_that_cannot_be(tmp_path, bad):
    with pytest.raises(ModelFileError):
        read_tensors(Written(tmp_path).write(bad, {"0": b"\0" * 16}), "x")


def test_a_bomb_is_not_unpacked(tmp_path):
    path = Written(tmp_path).write(program((4,), (1,)), {"0": b"\0" * 16}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelFileError, match="compressed or too large|damaged"):
        read_tensors(path, "x")


def test_numbers_of_another_byte_order_are_refused(tmp_path):
    path = Written(tmp_path).write(program((4,), (1,)), {"0": b"\0" * 16}, byteorder="big")
    with pytest.raises(ModelFileError, match="byte order"):
        read_tensors(path, "x")


def test_a_few_numbers_are_not_taken_for_many(tmp_path):
    golden = dl_batch_topk(tmp_path, Weights())
    file = next(golden.path.rglob("*.pt"))
    torch.save(torch.load(file) | {"encoder.weight": torch.zeros(1).expand(48, 12)}, file)
    with pytest.raises(ModelFileError, match="encoder.weight is larger than what is stored"):
        import_sae(golden.path)


def weights_file(folder):
    return next(path for path in folder.rglob("*") if path.suffix in (".pt", ".safetensors"))


@pytest.mark.parametrize(("name", "write"), EVERY, ids=lambda case: getattr(case, "__name__", None))
def test_damage_is_named(name, write, tmp_path):
    golden = write(tmp_path, Weights())
    file = weights_file(tmp_path)
    whole = file.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:10], b""):
        file.write_bytes(part)
        with pytest.raises((ModelFileError, ConfigError)):
            import_sae(golden.path, format=name)
    file.unlink()
    with pytest.raises(ModelFileError, match=f"no SAE in .*{name}"):
        import_sae(golden.path, format=name)


@pytest.mark.parametrize(("name", "write"), EVERY, ids=lambda case: getattr(case, "__name__", None))
@pytest.mark.parametrize("change", ["missing", "shape", "type", "nan", "more"])
def test_weights_that_do_not_fit(name, write, change, tmp_path):
    golden = write(tmp_path, Weights())
    file = weights_file(tmp_path)
    if file.suffix == ".safetensors":
        tensors, save = load_file(file), save_file
    else:
        tensors, save = read_tensors(file, "x").tensors if name != "saev" else matrices(), torch.save
    victim = next(key for key in tensors if key in ("W_dec", "decoder.weight"))
    tensor = tensors[victim].clone().contiguous()
    tensors = {key: value.clone().contiguous() for key, value in tensors.items()}  # no part of the file any more
    if change == "missing":
        del tensors[victim]
    elif change == "more":
        tensors["surprise"] = torch.zeros(3)
    elif change == "shape":
        tensors[victim] = tensor[:-1].contiguous()
    elif change == "type":
        tensors[victim] = tensor.long()
    else:
        tensors[victim] = tensor.index_fill(0, torch.tensor(1), float("nan"))
    if name == "saev":
        saev(tmp_path, Weights(), json.loads(file.read_bytes().split(b"\n")[0]), {"W_dec": torch.zeros(0)})
        with file.open("wb") as out:
            out.write(b'{"schema": 5, "cfg": {"activation": {"cls": "Relu", "params": {}}}}\n')
            torch.save(tensors, out)
    else:
        save(tensors, file)
    with pytest.raises((ModelFileError, ConfigError)) as caught:
        import_sae(golden.path)
    assert len(str(caught.value)) < 2500
    if change == "nan":
        assert "NaN" in str(caught.value)


def test_a_header_that_is_none(tmp_path):
    for line in (b'{"schema": 5', b"{}", b"[1]", b'{"schema": "5", "cfg": {}}'):
        (tmp_path / "sae.pt").write_bytes(line + b"\n")
        with pytest.raises((ModelFileError, ConfigError)):
            import_sae(tmp_path, format="saev")


def test_configs_that_are_none(tmp_path):
    w = Weights()
    for text in ("{", "[]", '{"d_in": 1, "d_in": 2}', '{"k": NaN}'):
        prisma(tmp_path, w)
        (tmp_path / "config.json").write_text(text)
        with pytest.raises((ConfigError, ModelFileError)):
            import_sae(tmp_path, format="prisma")
