import hashlib
import io
import tarfile

import pytest

from training.photo_world import sources
from training.photo_world.sources import DebianPackage, SourceMissing, fetch_debian, fetch_python, unpack


def member(name: str, content: bytes) -> bytes:
    return (
        f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        + content
        + b"\n" * (len(content) % 2)
    )


def package(files: dict[str, bytes], link: str | None = None) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return (
        sources.AR_MAGIC
        + member("debian-binary", b"2.0")
        + member("control.tar", b"odd")
        + member("data.tar.xz", data.getvalue())
    )


def test_pictures_and_texts_of_a_package_are_unpacked_and_nothing_else(tmp_path):
    archive = tmp_path / "some.deb"
    archive.write_bytes(
        package({"./usr/a.png": b"picture", "./usr/a.ogg": b"voice", "./usr/a.txt": b"text"}, "./usr/b.png")
    )
    unpack(archive, tmp_path / "out")
    files = {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    assert files == {"usr/a.png": b"picture", "usr/a.txt": b"text"}


def test_a_package_cannot_write_outside_its_folder(tmp_path):
    archive = tmp_path / "some.deb"
    archive.write_bytes(package({"../../evil.png": b"x"}))
    with pytest.raises(tarfile.OutsideDestinationError):
        unpack(archive, tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("evil.png"))


def test_what_is_no_package_is_an_error_that_says_so(tmp_path):
    (tmp_path / "some.deb").write_bytes(b"<html>not found</html>")
    with pytest.raises(SourceMissing, match="is no Debian package"):
        unpack(tmp_path / "some.deb", tmp_path / "out")


def test_a_file_that_lies_there_is_taken_without_apt(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    content = package({"./usr/a.png": b"picture"})
    wanted = DebianPackage("some", "1.0", hashlib.sha256(content).hexdigest())
    (tmp_path / wanted.file).write_bytes(content)
    assert (fetch_debian(wanted, tmp_path) / "usr" / "a.png").read_bytes() == b"picture"
    assert not (tmp_path / wanted.file).exists()
    assert fetch_debian(wanted, tmp_path) == tmp_path / "some"


def test_another_file_than_was_pinned_is_refused(tmp_path):
    wanted = DebianPackage("some", "1.0", "0" * 64)
    (tmp_path / wanted.file).write_bytes(package({}))
    with pytest.raises(SourceMissing, match="has the SHA-256 .*, not 0000"):
        fetch_debian(wanted, tmp_path)
    assert not (tmp_path / "some").exists()


def test_without_apt_the_error_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    with pytest.raises(SourceMissing, match=f"put some_1.0_all.deb of Debian into {tmp_path}"):
        fetch_debian(DebianPackage("some", "1.0", "0" * 64), tmp_path)


@pytest.mark.parametrize("fetch", (lambda folder: fetch_debian(sources.STAMPS, folder), fetch_python))
def test_a_command_that_fails_is_an_error_with_its_words(tmp_path, monkeypatch, fetch):
    monkeypatch.setattr(sources.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sources.sys, "executable", "false")
    script = tmp_path / "bin" / "apt-get"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\necho no such thing >&2\nexit 100\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    with pytest.raises(SourceMissing, match="could not be fetched"):
        fetch(tmp_path / "downloads")
    assert not list((tmp_path / "downloads").glob("python-*"))


def test_every_requirement_is_pinned_with_hashes():
    blocks = [block for block in sources.REQUIREMENTS.read_text().split("\n\n") if block.strip()]
    lines = [line for block in blocks for line in block.splitlines() if line and not line.startswith(("#", " "))]
    assert len(lines) >= 8
    assert all("==" in line and line.endswith("\\") for line in lines)
