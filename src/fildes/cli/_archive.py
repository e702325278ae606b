"""The file that `fildes backup` writes and `fildes restore` reads: a tar, complete when its last member is there.

    fildes-backup.json               {"format", "fildes", "state", "uid_base", "created"}
    catalogue.db                     the database, without secrets
    objects/SHA256                   bundles and packs
    data/OWNER/SERVICE/GRANT/db      a database
    data/OWNER/SERVICE/GRANT/tree.tar    a tree of files (_tree_reading.py)
    secrets                          with a key: a JSON list under ChaCha20-Poly1305 (RFC 8439), bound to the header
    end.json                         {"members": {name: [size, sha256]}}, of all before it

What is read is input from outside: names are an allow-list, nothing but plain files is taken, and nothing counts
before the end was seen.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from fildes.cli._shared import Trouble
from fildes.cli._tree_writing import DAMAGE, Bounded

FORMAT: Final = 2  # 1 had no trees
HEADER: Final = "fildes-backup.json"
DATABASE: Final = "catalogue.db"
SECRETS: Final = "secrets"
END: Final = "end.json"
_SMALL: Final = 64 << 20  # bytes of a member that is read into memory
_NAMES: Final = re.compile(
    r"catalogue\.db|secrets|objects/[0-9a-f]{64}|data(/(?!\.\.?/)[A-Za-z0-9_.@:-]{1,64}){3}/(db|tree\.tar)"
)
_KEY: Final = re.compile(r"fildes-key-1 ([0-9a-f]{64})\s*")


class Writer:
    """Raises OSError as writing does."""

    def __init__(self, file: IO[bytes], header: dict[str, Any]) -> None:
        self._tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._members: dict[str, tuple[int, str]] = {}
        self.size = 0  # bytes of the members so far
        self.header = json.dumps({"format": FORMAT, **header}, sort_keys=True).encode()
        self.add(HEADER, io.BytesIO(self.header), len(self.header))

    def add(self, name: str, source: IO[bytes], size: int) -> None:
        """`size` bytes of `source`, as they are; fewer are an OSError."""
        reader = _Hashing(source)
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        self._tar.addfile(info, reader)
        self._members[name] = size, reader.hash.hexdigest()
        self.size += size

    def end(self) -> None:
        data = json.dumps({"members": self._members}).encode()
        info = tarfile.TarInfo(END)
        info.size, info.mode = len(data), 0o600
        self._tar.addfile(info, io.BytesIO(data))
        self._tar.close()


class _Hashing(io.RawIOBase):
    """What is read of `source`, hashed on the way."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source, self.hash = source, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.hash.update(data)
        return data


class Reader:
    """Raises Trouble for what is no backup, or a damaged one; `name` is for its sentences."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._name = name
        self._seen: dict[str, tuple[int, str]] = {}
        self._file = Bounded(file)
        source: Any = self._file
        try:
            self._tar = tarfile.open(fileobj=source, mode="r|")  # noqa: SIM115
            first = self._next()
            if first is None or first.name != HEADER or first.size > 1 << 16:
                raise self._wrong("this is not a backup that fildes wrote")
            self.raw_header = self._take(first)
            header = json.loads(self.raw_header)
        except (OSError, *DAMAGE) as error:
            raise self._wrong(f"this is not a backup that fildes wrote ({error})") from error
        numbers = ("format", "state", "uid_base")
        if not isinstance(header, dict) or not all(isinstance(header.get(number), int) for number in numbers):
            raise self._wrong("this is not a backup that fildes wrote")
        if not (header["format"] > 0 and header["state"] > 0 and 0 <= header["uid_base"] < 1 << 32):
            raise self._wrong("this is not a backup that fildes wrote")
        if header["format"] > FORMAT:
            raise self._wrong(f"it was written by fildes {header.get('fildes')}, in a form that this one can't read")
        self.header: dict[str, Any] = header

    def extract(self, folder: Path) -> bytes:
        """Write every member below `folder`; the encrypted secrets, b"" if there are none.

        When it returns the backup was whole: every member as it was written.
        """
        secrets = b""
        try:
            for info in self._members():
                if info.name == SECRETS:
                    secrets = self._take(info)
                else:
                    self._write(info, folder / info.name)
        except (tarfile.ReadError, EOFError) as error:
            raise self._wrong(f"it was cut off ({error}). Take the backup again, or find a whole copy") from error
        except DAMAGE as error:
            raise self._wrong(f"it is damaged: {error}") from error
        return secrets

    def _next(self) -> tarfile.TarInfo | None:
        self._file.headers()
        return self._tar.next()

    def _members(self) -> Iterator[tarfile.TarInfo]:
        """All but the last, which must agree with them."""
        while (info := self._next()) is not None:
            if info.name == END and info.isreg() and info.size <= _SMALL:
                end = json.loads(self._take(info))
                del self._seen[END]  # it speaks of those before it
                self._compare(end)
                return
            if not info.isreg() or not _NAMES.fullmatch(info.name) or info.name in self._seen:
                raise self._wrong(f"it holds {info.name[:80]!r}, which no backup does")
            yield info
        raise self._wrong("it was cut off: its end is missing. Take the backup again, or find a whole copy")

    def _compare(self, end: object) -> None:
        members = end.get("members") if isinstance(end, dict) else None
        if not isinstance(members, dict):
            raise self._wrong("its end can't be read")
        for name, told in members.items():
            if list(self._seen.get(name, ())) != told:
                raise self._wrong(f"{name} is missing, or not as it was written")
        if len(members) != len(self._seen):
            raise self._wrong("something was added to it")

    def _take(self, info: tarfile.TarInfo) -> bytes:
        if info.size > _SMALL:
            raise self._wrong(f"{info.name} is too large")
        buffer = io.BytesIO()
        self._copy(info, buffer)
        return buffer.getvalue()

    def _write(self, info: tarfile.TarInfo, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "wb") as target:
            self._copy(info, target)
            target.flush()
            os.fsync(target.fileno())

    def _copy(self, info: tarfile.TarInfo, target: IO[bytes]) -> None:
        self._file.content()
        source = self._tar.extractfile(info)
        digest, size = hashlib.sha256(), 0
        while source is not None and (data := source.read(1 << 20)):
            target.write(data)
            digest.update(data)
            size += len(data)
        if size != info.size:
            raise self._wrong("it was cut off in the middle. Take the backup again, or find a whole copy")
        self._seen[info.name] = size, digest.hexdigest()

    def _wrong(self, text: str) -> Trouble:
        return Trouble(f"{self._name}: {text}; nothing was restored")


# — keys —


def new_key(path: str) -> None:
    """Make a key in the new file `path`, which only its owner may read. Raises Trouble."""
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    except OSError as error:
        raise Trouble(f"{path}: {error.strerror}; name a file that is not there yet") from error
    with open(number, "w", encoding="ascii") as file:
        file.write(f"fildes-key-1 {os.urandom(32).hex()}\n")


def read_key(path: str) -> bytes:
    """32 bytes. Raises Trouble."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            found = _KEY.fullmatch(file.read(256))
    except OSError as error:
        raise Trouble(f"--key {path}: {error.strerror}; make one: fildes backup --new-key {path}") from error
    if found is None:
        raise Trouble(f"--key {path}: this is no key; make one: fildes backup --new-key FILE")
    return bytes.fromhex(found[1])


def seal(key: bytes, secrets: list[list[str]], header: bytes) -> bytes:
    """The `secrets` so that only `key` opens them, and only beside this header."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    nonce = os.urandom(12)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, json.dumps(secrets).encode(), header)


def unseal(key: bytes, data: bytes, header: bytes) -> list[tuple[str, str, str, bytes]]:
    """(owner, service, name, value). Raises Trouble if it was sealed with another key."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        secrets = json.loads(ChaCha20Poly1305(key).decrypt(data[:12], data[12:], header))
    except InvalidTag as error:
        raise Trouble("--key: the secrets in this backup were sealed with another key; nothing was restored") from error
    return [(owner, service, name, bytes.fromhex(value)) for owner, service, name, value in secrets]
