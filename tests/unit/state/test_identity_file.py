"""identity_file and private_files: the key is made once, kept private, and never half written."""

from __future__ import annotations

import base64
import errno
import os
import stat
from pathlib import Path

import pytest

from p2pfwd.core.keys import KeyType, PrivateKey
from p2pfwd.errors import ExitStatus, InvalidKey, NotFound, StorageFailed, UsageError
from p2pfwd.state import identity_file
from p2pfwd.system import private_files


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_made_once_in_a_private_place(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "identity.key"
    key, made = identity_file.load_or_create(path)
    assert made
    assert key.type is KeyType.ED25519
    assert mode(path) == 0o600
    assert mode(path.parent) == mode(path.parent.parent) == 0o700
    again, made = identity_file.load_or_create(path)
    assert not made
    assert again.to_protobuf() == key.to_protobuf()
    assert os.listdir(path.parent) == ["identity.key"]


def test_the_file_is_kubos_text(tmp_path: Path) -> None:
    key, _ = identity_file.load_or_create(tmp_path / "k")
    text = (tmp_path / "k").read_text()
    assert text.endswith("\n")
    assert base64.b64decode(text, validate=False) == key.to_protobuf()
    assert identity_file.encode(key) == text.strip()


@pytest.mark.parametrize("loose", [0o644, 0o640, 0o604, 0o660, 0o610])
def test_a_key_others_can_touch_is_refused_with_the_cure(tmp_path: Path, loose: int) -> None:
    path = tmp_path / "k"
    identity_file.load_or_create(path)
    path.chmod(loose)
    with pytest.raises(InvalidKey, match="other users can read it") as caught:
        identity_file.load_or_create(path)
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "it is empty"),
        (b"\n", "it is empty"),
        (b"not base64!", "not base64"),
        (b"\xff\xfe", "not base64"),
        (b"AAAA", "key"),
        (base64.b64encode(b"\x08\x01\x12\x02ab"), "key"),
        (b"A" * (identity_file.MAX_BYTES + 1), "longer than any key"),
    ],
)
def test_a_corrupt_key_is_refused_and_left_as_it_is(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "k"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(InvalidKey, match=said) as caught:
        identity_file.load_or_create(path)
    assert str(path) in caught.value.message
    assert "move it away" in str(caught.value.hint)
    assert caught.value.exit_status == ExitStatus.USAGE
    assert path.read_bytes() == text


def test_what_is_no_file_is_refused_without_hanging(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "dir").mkdir()
    for name in ("fifo", "dir"):
        with pytest.raises(InvalidKey, match="not a file"):
            identity_file.load(tmp_path / name)


def test_a_link_to_nothing_is_no_reason_to_become_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    path.symlink_to(tmp_path / "not-mounted" / "identity.key")
    with pytest.raises(StorageFailed, match="a link to a file that does not exist"):
        identity_file.load_or_create(path)
    assert path.is_symlink()


def test_no_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        identity_file.load(tmp_path / "k")


@pytest.mark.parametrize("key_type", list(KeyType))
def test_every_key_type_is_imported_in_kubos_form(tmp_path: Path, key_type: KeyType) -> None:
    key = PrivateKey.generate(key_type)
    text = identity_file.encode(key)
    wrapped = "\n".join(text[i : i + 60] for i in range(0, len(text), 60))
    assert identity_file.import_text(tmp_path / "k", f" {wrapped}\n").to_protobuf() == key.to_protobuf()
    assert identity_file.load(tmp_path / "k").type is key_type


def test_an_import_does_not_lose_an_identity_unasked(tmp_path: Path) -> None:
    path = tmp_path / "k"
    old, _ = identity_file.load_or_create(path)
    new = identity_file.encode(PrivateKey.generate())
    with pytest.raises(UsageError, match="has an identity already"):
        identity_file.import_text(path, new)
    assert identity_file.load(path).to_protobuf() == old.to_protobuf()
    identity_file.import_text(path, identity_file.encode(old))  # the same key: nothing is lost
    identity_file.import_text(path, new, replace=True)
    assert identity_file.encode(identity_file.load(path)) == new


def test_a_bad_import_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidKey, match="imported key: it is not base64") as caught:
        identity_file.import_text(tmp_path / "k", "§")
    assert "Identity.PrivKey" in str(caught.value.hint)
    assert not (tmp_path / "k").exists()


def test_an_import_does_not_take_the_place_of_a_link_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.symlink_to(tmp_path / "not-mounted")
    with pytest.raises(StorageFailed, match="a link to a file that does not exist"):
        identity_file.import_text(path, identity_file.encode(PrivateKey.generate()))
    assert path.is_symlink()


@pytest.mark.parametrize("operation", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_rest(
    tmp_path: Path, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "k"
    private_files.write_atomically(path, b"old", "file")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, full)
        with pytest.raises(StorageFailed, match="No space left on device") as caught:
            private_files.write_atomically(path, b"new", "file")
    assert "free some space" in str(caught.value.hint)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["k"]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:3])))
    private_files.write_atomically(tmp_path / "k", b"0123456789", "file")
    assert (tmp_path / "k").read_bytes() == b"0123456789"


def test_a_home_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match=r"home directory .*: Not a directory") as caught:
        private_files.private_directory(tmp_path / "file" / "home", "home directory")
    assert "P2PFWD_HOME" in str(caught.value.hint)


def test_a_home_that_is_not_writable_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, wanted: False)
    with pytest.raises(StorageFailed, match="not writable") as caught:
        private_files.private_directory(tmp_path, "home directory")
    assert "P2PFWD_HOME" in str(caught.value.hint)


def test_a_home_others_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    with pytest.raises(StorageFailed, match="other users can write") as caught:
        private_files.private_directory(tmp_path, "home directory")
    assert caught.value.hint == f"chmod 700 {tmp_path}"


def test_another_users_home_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.geteuid() + 4242
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(StorageFailed, match="it belongs to "):
        private_files.private_directory(tmp_path, "home directory")
