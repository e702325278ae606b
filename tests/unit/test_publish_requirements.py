"""Requirement files: what is refused is refused with its line and a remedy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fildes.publish.names import Rejected
from fildes.publish.requirements import read, read_lock

HASH = "--hash=sha256:" + "0f" * 32

GOOD = [
    "flask",
    "Flask>=3.0,<4  # the web",
    "uvicorn[standard]==0.30.*",
    'tomli ; python_version < "3.11"',
    "a.b-c_d (>=1) ; sys_platform == \"linux\" and (extra == 'x')",
    f"iniconfig==2.0.0 \\\n    {HASH} \\\n    {HASH}",
    "# only a comment",
    "",
]


@pytest.mark.parametrize("text", GOOD)
def test_accepted(text: str) -> None:
    read(text.encode(), "requirements.txt")


REFUSED = {
    "-r other.txt": "reads another file",
    "-rother.txt": "reads another file",
    "--requirement=other.txt": "reads another file",
    "-c constraints.txt": "reads another file",
    "-e .": "builds from source",
    "--editable=.": "builds from source",
    "--index-url https://example.org/simple": "another package index",
    "-i https://example.org/simple": "another package index",
    "--extra-index-url=https://example.org": "another package index",
    "-f ./wheels": "another place for packages",
    "--trusted-host example.org": "certificate",
    "--no-binary :all:": "building from source",
    "--pre": "is an option",
    "flask @ https://example.org/flask.whl": "the node's index only",
    "flask@https://example.org/flask.whl": "the node's index only",
    "https://example.org/flask-1-py3-none-any.whl": "the node's index only",
    "git+https://example.org/flask.git": "the node's index only",
    "file:///etc/passwd": "the node's index only",
    "file:wheels/x.whl": "the node's index only",
    "./package": "files are not installed",
    "/etc/passwd": "files are not installed",
    "wheels/x-1-py3-none-any.whl": "files are not installed",
    "flask==${VERSION}": "values from the environment",
    "${SECRET}": "values from the environment",
    "flask --hash=md5:00": "--hash=sha256:",
    "flask == ": "not a requirement",
    "flask; import os": None,
    "flask --config-settings=x": "not a requirement",
    "flask\x00": "not a requirement",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused(line: str) -> None:
    said = REFUSED[line]
    if said is None:  # reads as a marker; the resolver says that it is none
        return
    with pytest.raises(Rejected) as caught:
        read(f"# first\nflask\n{line}\n".encode(), "requirements.txt")
    assert "requirements.txt:3: " in str(caught.value)
    assert said in str(caught.value)


def test_continuations_count_from_their_first_line() -> None:
    with pytest.raises(Rejected, match=r"requirements\.txt:2: "):
        read(b"flask\n-r \\\nother.txt\n", "requirements.txt")
    with pytest.raises(Rejected, match=r"requirements\.txt:1: "):
        read(b"-r \\", "requirements.txt")


def test_locked() -> None:
    assert read(f"a==1 {HASH}\nb==2 {HASH}\n".encode(), "r").locked
    assert not read(f"a==1 {HASH}\nb==2\n".encode(), "r").locked
    assert not read(f"a>=1 {HASH}\n".encode(), "r").locked
    assert not read(f"a==1.* {HASH}\n".encode(), "r").locked
    assert not read(b"", "r").locked
    with pytest.raises(Rejected, match=r"requirements\.lock:2: b==2: a lock needs"):
        read_lock(f"a==1 {HASH}\nb==2\n".encode(), "requirements.lock")


def test_encoding() -> None:
    assert read("\ufeffflask\r\n".encode(), "r").lines == ("flask",)
    with pytest.raises(Rejected, match="r:2: not UTF-8"):
        read(b"flask\n\xff\n", "r")
    with pytest.raises(Rejected, match="at most"):
        read(b"#" * (1 << 20), "r")


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_rejected(content: bytes) -> None:
    try:
        lines = read(content, "r").lines
    except Rejected as error:
        assert str(error)
    else:
        assert all("://" not in line and not line.startswith("-") and "${" not in line for line in lines)
