"""The kinds as data: complete, consistent, and light on the tenant's side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fildes.capabilities
from fildes.bus.routes import ALLOWED
from fildes.capabilities.connect.grant import Address, address_of, service_of
from fildes.capabilities.kind import grant_lines, problems
from fildes.capabilities.kinds import DECLARED, KINDS, driver_of

FOLDER = Path(fildes.capabilities.__file__).parent


def test_one_folder_a_kind_and_every_folder_is_known() -> None:
    folders = {path.parent.name for path in FOLDER.glob("*/grant.py")}
    assert folders == set(KINDS)
    assert set(DECLARED) == folders - {"log"}


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_each_kind_says_what_it_is_who_opens_it_and_how_it_ends(kind) -> None:
    assert kind.summary and kind.revocation
    if kind.driver not in ("", "bus"):
        assert f"{kind.driver}.open" in ALLOWED


@pytest.mark.parametrize("name", sorted(path.parent.name for path in FOLDER.glob("*/face.py")))
def test_a_face_loads_neither_its_driver_nor_anything_foreign(name: str) -> None:
    code = (
        f"import sys; before = set(sys.modules); import fildes.capabilities.{name}.face; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before}; "
        "print([m for m in sys.modules if m.endswith('.driver')], sorted(new - sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(FOLDER.parents[1])!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[] ['fildes']"


def test_the_sdk_and_the_codec_need_nothing_but_the_standard_library() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER.parents[1])!r}); "
        "from fildes import sdk; import fildes.sdk.client; "
        "print(sorted(m for m in sys.modules if m.startswith('fildes.')))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    loaded = eval(done.stdout)
    allowed = ("fildes.sdk", "fildes.capabilities", "fildes.wire", "fildes.wire.tenant", "fildes.kernel")
    assert all(m in allowed or m.startswith("fildes.sdk.") or m.startswith("fildes.capabilities.") for m in loaded)
    assert not any("msgspec" in m or m.endswith((".driver", ".grant", ".kinds")) for m in loaded)


def test_a_connect_leads_to_a_service_or_to_an_address() -> None:
    assert service_of("ledger") == "ledger"
    for to in ("Ledger", "a_b", "-a", "a-", "", "db.example.org:1", "a" * 64):
        assert service_of(to) is None
    assert address_of("db.example.org:5432") == Address("db.example.org", 5432)
    assert address_of("127.0.0.1:80") == Address("127.0.0.1", 80)
    assert address_of("[2001:db8::1]:443") == Address("2001:db8::1", 443)
    for to in ("a:0", "a:65536", "a:080", "a", ":80", "a b:80", "2001:db8::1:443", "[]:80", "a..b:80", "a:８０"):
        assert address_of(to) is None


@given(st.text())
def test_nothing_is_both_a_service_and_an_address(to: str) -> None:
    assert service_of(to) is None or address_of(to) is None


def test_the_driver_of_a_connect_depends_on_where_it_leads() -> None:
    assert driver_of("connect", "ledger") == "bus"
    assert driver_of("connect", "db.example.org:5432") == "net"
    assert driver_of("files", None) == ""
    with pytest.raises(KeyError):
        driver_of("listen", None)


def test_options_are_checked_against_what_the_kind_declares() -> None:
    assert problems(KINDS["clock"], {}) == []
    assert problems(KINDS["clock"], {"to": "x"}) == ["the kind clock has no option 'to'"]
    assert "needs 'to'" in problems(KINDS["connect"], {})[0]
    assert "of the type int" in problems(KINDS["connect"], {"to": "a", "connections": True})[0]


def test_lines_of_a_grant_are_as_short_as_they_can_be() -> None:
    assert grant_lines("clock", "clock") == "[grants.clock]"
    assert grant_lines("db", "connect", "ledger") == '[grants.db]\nkind = "connect"\nto = "ledger"'
