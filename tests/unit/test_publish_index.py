"""Where packages come from: what `fildes up` says, then uv's word, then pip's."""

from __future__ import annotations

from pathlib import Path

import pytest

from fildes.publish.index import NoIndex, discover


def test_what_up_is_told_wins(tmp_path: Path) -> None:
    environ = {"UV_DEFAULT_INDEX": "https://uv.example/simple", "UV_INDEX": "https://more.example/simple"}
    found = discover(["https://one.example:8443/simple", "http://two.example/"], environ, ["files.example"], tmp_path)
    assert found["urls"] == ["https://one.example:8443/simple", "http://two.example/"]
    assert found["hosts"] == ["one.example:8443", "two.example:80", "files.example:443"]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"UV_DEFAULT_INDEX": "https://a.example/s", "PIP_INDEX_URL": "https://b.example/s"}, ["https://a.example/s"]),
        ({"UV_DEFAULT_INDEX": "inner=https://a.example/s"}, ["https://a.example/s"]),
        ({"UV_INDEX_URL": "https://a.example/s", "UV_INDEX": "x=https://u:p@c.example/s"}, None),
        ({"PIP_INDEX_URL": "https://b.example/s"}, ["https://b.example/s"]),
    ],
)
def test_variables(environ: dict[str, str], expected: list[str] | None, tmp_path: Path) -> None:
    environ["PIP_CONFIG_FILE"] = "/dev/null"
    found = discover([], environ, home=tmp_path)
    assert found["urls"] == (expected or ["https://a.example/s", "https://u:p@c.example/s"])
    assert all("@" not in host for host in found["hosts"])


def test_pip_configuration(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://pip.example/simple\nextra_index_url = file:///wheels\n  https://x.example/s\n"
    )
    found = discover([], {"PIP_CONFIG_FILE": str(file)}, home=tmp_path)
    assert found["urls"] == ["https://pip.example/simple", "https://x.example/s"], "folders are passed over"


def test_the_default_comes_from_pip(tmp_path: Path) -> None:
    found = discover([], {"PIP_CONFIG_FILE": "/dev/null"}, home=tmp_path)
    assert len(found["urls"]) == 1
    assert len(found["hosts"]) == 2, "the index's pages, and its files"


def test_certificates(tmp_path: Path) -> None:
    assert discover([], {"SSL_CERT_FILE": "/ca.pem"}, home=tmp_path)["ca"] == "/ca.pem"


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(NoIndex, match="--index /wheels: not an http"):
        discover(["/wheels"], {}, home=tmp_path)
