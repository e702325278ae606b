"""An edition tells one set of secrets from another, and where the view shows them."""

from __future__ import annotations

from fildes.kernel import memfd
from fildes.kernel.fds import close_all
from fildes.orchestrator.kits import edition
from fildes.orchestrator.launch import secret_places


def of(*secrets: tuple[str, bytes]) -> str:
    opened = [(name, memfd.sealed("secret", value)) for name, value in secrets]
    try:
        return edition(opened)
    finally:
        close_all([fd for _, fd in opened])


def test_the_same_for_the_same_and_another_for_another() -> None:
    assert of() == ""
    assert of(("key", b"a")) == of(("key", b"a")) != ""
    others = [(("key", b"b"),), (("kex", b"a"),), (("key", b""),), (("key", b"a"), ("more", b"")), (("k", b"ey a"),)]
    assert len({of(("key", b"a")), *(of(*other) for other in others)}) == len(others) + 1


def test_they_lie_in_a_mount_of_their_own() -> None:
    opened = [("key", memfd.sealed("secret", b"abc")), ("other", memfd.sealed("secret", b""))]
    try:
        folder, *files = secret_places(opened)
    finally:
        close_all([fd for _, fd in opened])
    assert folder.path == "/run/secrets" and folder.describe().startswith("/run/secrets, a new tmpfs, mode=0755, size=")
    assert [file.path for file in files] == ["/run/secrets/key", "/run/secrets/other"]
    assert secret_places([]) == []
