"""Which package indexes a node uses: found once by `fildes up`, handed to publish and net in the settings.

    settings["index"] = discover(["https://…"], os.environ)

is a plain dict: {"urls": [default, further…], "hosts": ["host:port", …], "ca": path of a CA bundle or ""}, with
"timeout" (seconds) and "retries" where UV_HTTP_TIMEOUT and UV_HTTP_RETRIES say so.
Order of precedence: what `up` was told, uv's variables, pip's variables, pip's configuration files, and then the
index that this installation's pip knows as its default (with the host of its files). Indexes that are not
http(s) are passed over: the resolver sees no folders.
"""

from __future__ import annotations

import configparser
import os
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

_PORTS: Final = {"https": 443, "http": 80}
_CA_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",
)


class NoIndex(ValueError):
    """An index was named that can't be used; the text says what to do."""


def discover(
    given: Sequence[str], environ: Mapping[str, str], further_hosts: Sequence[str] = (), home: Path | None = None
) -> dict[str, Any]:
    """The settings for `publish` and `net`. `given`: the URLs of `fildes up --index`, the default one first;
    `further_hosts`: hosts that the indexes' files are on, where that is another one. Raises NoIndex."""
    for url in given:
        if _place(url) is None:
            raise NoIndex(
                f"--index {url}: not an http or https address; write it like https://packages.example.org/simple"
            )
    pip = _pip_configuration(environ, home or Path(environ.get("HOME") or "/"))
    default = (
        next(iter(given), "")
        or environ.get("UV_DEFAULT_INDEX", "").rpartition("=")[2]
        or environ.get("UV_INDEX_URL", "")
        or environ.get("PIP_INDEX_URL", "")
        or pip.get("index-url", "")
    )
    further = list(given[1:])
    if not given:
        for key in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
            further += [word.rpartition("=")[2] for word in environ.get(key, "").split()]
        further += pip.get("extra-index-url", "").split()
    hosts: list[str] = []
    if _place(default) is None:
        default, files = _pip_default()
        hosts += [f"{host}:443" for host in files]
    urls = list(dict.fromkeys(url for url in (default, *further) if _place(url)))
    hosts = [place for url in urls if (place := _place(url))] + hosts
    hosts += [host if ":" in host else f"{host}:443" for host in further_hosts]
    ca = environ.get("SSL_CERT_FILE") or next((path for path in _CA_FILES if os.path.exists(path)), "")
    patience = {
        name: int(environ[variable])
        for name, variable in (("timeout", "UV_HTTP_TIMEOUT"), ("retries", "UV_HTTP_RETRIES"))
        if environ.get(variable, "").isdecimal()
    }
    return {"urls": urls, "hosts": list(dict.fromkeys(hosts)), "ca": ca, **patience}


def _place(url: str) -> str | None:
    """ "host:port" of an http(s) URL, None for others."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return None
    if not port or not parts.hostname or parts.scheme not in _PORTS:
        return None
    return f"[{parts.hostname}]:{port}" if ":" in parts.hostname else f"{parts.hostname}:{port}"


def _pip_configuration(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """[global] of pip's configuration files, the more particular ones winning (pip: configuration)."""
    files = [Path("/etc/pip.conf"), home / ".pip/pip.conf"]
    files.append(Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf")
    files.append(Path(sys.prefix) / "pip.conf")
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return {}
    found: dict[str, str] = {}
    for file in [*files, *([Path(named)] if named else [])]:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
        if parser.has_section("global"):
            found.update({key.replace("_", "-"): value for key, value in parser.items("global")})
    return found


def _pip_default() -> tuple[str, Iterable[str]]:
    """The index that pip knows as its default, and the host that its files are on; ("", ()) without a pip.

    pip keeps both as constants of one module. It is read here and not written down, so that a distribution's
    pip with another default decides.
    """
    source = _pip_source()
    namespace: dict[str, Any] = {"__name__": "pip_index"}
    try:
        exec(compile(source, "pip/_internal/models/index.py", "exec"), namespace)
        index = namespace["PyPI"]
        return str(index.simple_url), (str(index.file_storage_domain),)
    except Exception:  # another pip than we know: as if there were none
        return "", ()


def _pip_source() -> str:
    name = "pip/_internal/models/index.py"
    for entry in sys.path:
        try:
            return (Path(entry) / name).read_text("utf-8")
        except OSError:
            continue
    # An environment without pip: the wheel that ensurepip carries (Debian has them in /usr/share/python-wheels).
    import ensurepip

    folders = [Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels")]
    for wheel in (wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))):
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(name).decode()
    return ""
