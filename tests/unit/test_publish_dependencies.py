"""pyproject.toml, uv.lock, pylock.toml and requirements.lock of strangers: read, or refused with a sentence."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fildes.publish import dependencies, lockfile, locks, requirements
from fildes.publish.dependencies import Dependencies
from fildes.publish.names import Rejected

ZERO = "sha256:" + "0" * 64
LINE = f"flask==3.0 --hash={ZERO}"


def find(files: Mapping[str, str | bytes], **more: Any) -> Dependencies:
    content = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    options: dict[str, Any] = {"extras": (), "folders": {"src", "lib", ""}} | more
    return dependencies.find(content.get, **options)


def why(files: Mapping[str, str | bytes], **more: Any) -> str:
    with pytest.raises(Rejected) as caught:
        find(files, **more)
    return str(caught.value)


def project(*dependencies: str, more: str = "", table: str = "") -> str:
    listed = ", ".join(f"'{line}'" for line in dependencies)
    return f"[project]\nname = 'shop'\nversion = '1.0'\ndependencies = [{listed}]\n{table}\n{more}"


# — what is taken —


def test_the_first_that_is_there() -> None:
    assert find({}) == Dependencies()
    assert find({"pyproject.toml": "[tool.ruff]\nline-length = 100\n"}).lines == ()
    assert find({"pyproject.toml": project("flask>=3")}).lines == ("flask>=3",)
    both = {"pyproject.toml": project("flask>=3"), "requirements.txt": "flask==3.0\n"}
    assert (find(both).lines, find(both).source) == (("flask==3.0",), "requirements.txt")
    assert find({"requirements.txt": LINE}).lock == (LINE,)
    assert find({"requirements.lock": LINE}).lock == (LINE,)
    assert find({"requirements.lock": LINE, "requirements.txt": "flask"}).source == "requirements.lock"
    assert find({"requirements.txt": "# nothing\n"}) == Dependencies()


def test_extras() -> None:
    text = project("flask", more="[project.optional-dependencies]\nall = ['shop[My.PDF]', 'x']\nmy_pdf = ['paper']\n")
    assert find({"pyproject.toml": text}).lines == ("flask",)
    assert find({"pyproject.toml": text}, extras=["all"]).lines == ("flask", "x", "paper")
    assert 'has no extra "pdfs"' in why({"pyproject.toml": text}, extras=["pdfs"])
    assert "there is none" in why({}, extras=["pdf"])
    listed = {"pyproject.toml": text, "requirements.txt": "flask"}
    assert "requirements.txt comes before it" in why(listed, extras=["all"])


@pytest.mark.parametrize(
    ("table", "roots"),
    [
        ("", ("src",)),
        ("[tool.setuptools.packages.find]\nwhere = ['lib']", ("src", "lib")),
        ("[tool.setuptools]\npackage-dir = {'' = './lib'}", ("src", "lib")),
        ("[tool.hatch.build.targets.wheel]\npackages = ['lib/shop']", ("src", "lib")),
        ("[tool.poetry]\npackages = [{include = 'shop', from = 'lib'}]", ("src", "lib")),
        ("[tool.uv.build-backend]\nmodule-root = 'lib'", ("src", "lib")),
        ("[tool.setuptools.packages.find]\nwhere = ['../etc', '/etc', 'nowhere', 'a\\u0000', 7]", ("src",)),
        ("[tool.setuptools]\npackages = 7", ("src",)),
    ],
)
def test_where_the_project_s_own_code_is(table: str, roots: tuple[str, ...]) -> None:
    assert find({"pyproject.toml": project(more=table)}).own.roots == roots


def test_what_a_program_finds_about_itself() -> None:
    text = project(more="[build-system]\nrequires = []\n[project.entry-points.'flask.commands']\nx = 'shop.cli:x'\n")
    own = find({"pyproject.toml": text}).own
    assert dict(own.metadata)["shop-1.0.dist-info/entry_points.txt"] == "[flask.commands]\nx = shop.cli:x\n"
    assert find({"pyproject.toml": project()}).own.metadata == (), "not a package"


# — what is refused —

REFUSED = {
    "a build would have to say": ("[project]\ndynamic = ['dependencies']\n", "2: ", "nothing is built here"),
    "an address": (project("x @ https://evil.example/x.whl"), "4: ", "the node's index only"),
    "a file": (project("x @ file:///etc/passwd"), "4: ", "the node's index only"),
    "a version control": (project("x @ git+ssh://evil.example/x"), "4: ", "the node's index only"),
    "the environment": (project("x==${SECRET}"), "4: ", "values from the environment"),
    "an option": (project("-r /etc/passwd"), "4: ", "reads another file"),
    "two in one": (project("x\\nevil"), "4: ", ""),
    "a hash": (project(f"x==1 --hash={ZERO}"), "4: ", ""),
    "a marker that is none": (project("x; import os"), "4: ", "is not a requirement"),
    "another Python": (
        project(more="").replace("version", "requires-python = '<3.5'\nversion"),
        "3: ",
        "Python <3.5 is wanted",
    ),
    "versions of Python that are none": (
        project().replace("version", "requires-python = 'new'\nversion"),
        "3: ",
        "expected",
    ),
    "a source elsewhere": (
        project("x", more="[tool.uv.sources]\nX = {git = 'https://evil.example'}"),
        "",
        "from elsewhere",
    ),
    "a table that is none": ("project = 7\n", "", "expected a table"),
    "a list that is none": ("[project]\ndependencies = 'flask'\n", "", "expected a list"),
    "a list of others": ("[project]\ndependencies = ['a', 7]\n", "", "expected strings"),
    "a name": ("[project]\nname = '../../x'\n[build-system]\n", "", "not a project's name"),
    "a version": ("[project]\nname = 'x'\nversion = '../../1'\n[build-system]\n", "", "not a version"),
    "an entry point": (project(more="[build-system]\n[project.scripts]\n'a\\nb' = 'x:y'"), "", "not an entry point"),
    "poetry's": (
        "[tool.poetry.dependencies]\npython = '^3.11'\nflask = '^3'\n",
        "",
        "Poetry's own tables are not read",
    ),
    "not TOML": ("[project\n", "", "is not TOML"),
    "too deep": ("a = " + "[" * 3000 + "]" * 3000, "", "is not TOML"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_pyproject_refused(case: str) -> None:
    text, line, words = REFUSED[case]
    said = why({"pyproject.toml": text})
    assert said.startswith("pyproject.toml") and words in said
    if line:
        assert said.startswith("pyproject.toml:")


def test_what_is_passed_over_is_said() -> None:
    text = project("x", more="[[tool.uv.index]]\nname = 'other'\nurl = 'https://index.example'\n")
    assert find({"pyproject.toml": text}).words == ("[tool.uv] index not read: the node's own index is asked",)
    assert find({"pyproject.toml": project("x", more="[dependency-groups]\ndev = ['pytest']\n")}).lines == ("x",)
    sources = "[tool.uv.sources]\nother = {path = '../other'}\n"
    assert find({"pyproject.toml": project("x", more=sources)}).lines == ("x",), "of no package that is needed"


UV = f"""version = 1
[[package]]
name = "shop"
version = "1.0"
source = {{ virtual = "." }}
dependencies = [{{ name = "flask" }}]
[package.metadata]
requires-dist = [{{ name = "flask", specifier = ">=3" }}]
[[package]]
name = "flask"
version = "3.0"
source = {{ registry = "https://index.example/simple" }}
wheels = [{{ url = "https://index.example/flask.whl", hash = "{ZERO}" }}]
"""


def test_uv_lock() -> None:
    assert find({"pyproject.toml": project("flask>=3"), "uv.lock": UV}).lock == (LINE,)
    assert find({"pyproject.toml": project('Flask >= 3 ; os_name == "posix"'), "uv.lock": UV}).lock == (LINE,)


UV_REFUSED = {
    "version = 2": ("version = 1", "this node reads 1"),
    'name = "other"': ('name = "shop"', "does not speak of the project"),
    'specifier = ">=2"': ('specifier = ">=3"', "run: uv lock"),
    'source = { url = "https://evil.example" }': (
        'source = { registry = "https://index.example/simple" }',
        "comes from url",
    ),
    'source = { registry = "x", git = "y" }': ('source = { registry = "https://index.example/simple" }', "comes from"),
    "wheels = []": (UV[UV.index("wheels") :].strip(), "the lock has no wheel of it"),
    'hash = "md5:0"': (f'hash = "{ZERO}"', "a wheel without a sha256"),
    'version = "3.0\\n--index-url https://evil.example"': ('version = "3.0"', "uv.lock:"),
    'version = "${HOME}"': ('version = "3.0"', "uv.lock:"),
    'dependencies = [{ name = "none" }]': ('dependencies = [{ name = "flask" }]', "is in the lock 0 times"),
    'dependencies = [{ name = "flask", marker = "os" }]': ('dependencies = [{ name = "flask" }]', "is not a marker"),
    "dependencies = [7]": ('dependencies = [{ name = "flask" }]', "expected a list of tables"),
}


@pytest.mark.parametrize("to", UV_REFUSED)
def test_uv_lock_refused(to: str) -> None:
    given, words = UV_REFUSED[to]
    assert given in UV
    said = why({"pyproject.toml": project("flask>=3"), "uv.lock": UV.replace(given, to, 1)})
    assert said.startswith("uv.lock") and words in said


def test_locks_that_stand_alone() -> None:
    assert "uv.lock: there is no pyproject.toml with a [project] beside it" in why({"uv.lock": UV})
    pinned = 'lock-version = "1.0"\n[[packages]]\nname = "flask"\nversion = "3.0"\n'
    pinned += f'wheels = [{{hashes = {{sha256 = "{ZERO[7:]}"}}}}]\n'
    assert find({"pylock.toml": pinned}).lock == (LINE,)
    for change, words in {
        "1.0": ("2.0", 'this node reads "1.0"'),
        "[[packages]]": ('environments = ["os_name == \'nt\'"]\n[[packages]]', "made for other interpreters"),
        "sha256": ("sha512", "without a sha256"),
        "flask": ("flask\\n-e .", "pylock.toml:"),
    }.items():  # fmt: skip
        assert words[1] in why({"pylock.toml": pinned.replace(change, words[0], 1)})
    assert "make it again" in why({"pylock.toml": pinned}, upgrade=True)


def test_a_requirements_txt_that_is_a_lock_and_old() -> None:
    files = {"requirements.txt": LINE, "pyproject.toml": project("flask>=4")}
    assert "flask 3.0 is in it, and flask>=4 is wanted; make it again, for example: uv pip compile" in why(files)
    dynamic = "[project]\nname = 'shop'\ndynamic = ['dependencies']\n"
    assert find({"requirements.txt": LINE, "pyproject.toml": dynamic}).lock == (LINE,)


# — our own lock —


def test_the_head_of_our_own_lock() -> None:
    made = lockfile.with_head(LINE.encode() + b"\n", ["b>=1", "a"], "requirements.txt")
    head = lockfile.head(made)
    assert head.requirements == lockfile.key(["a", " b>=1"]) and head.python.startswith("3.")
    assert requirements.read_lock(made, "requirements.lock").lines == (LINE,)
    assert lockfile.stale(made, (LINE,), ("a", "b>=1")) == ""
    assert lockfile.plain(b"# x\na==1 \\\n    --hash=y \\\n    --hash=z\nb==2\n") == "a==1 --hash=y --hash=z\nb==2\n"
    assert lockfile.stale(made, (LINE,), ("a", "b>=1", "c")) == "it was made for other requirements"
    assert lockfile.head(made.replace(b"\n", b"\r\n")) == head, "saved on another system"
    for other in (b"", LINE.encode(), b"\xff" * 700, made[: len(made) // 3], b"#\n" * 9 + made):
        assert lockfile.head(other).requirements == ""


def test_a_lock_that_is_made_again() -> None:
    stale = {"requirements.txt": "flask>=4", "requirements.lock": LINE}
    assert "run: fildes publish DIR --lock, or remove requirements.lock" in why(stale)
    again = find(stale, again=True)
    assert (again.lines, again.before, again.lock) == (("flask>=4",), (LINE,), ())
    assert find(stale, again=True, upgrade=True).before == ()
    assert "add --lock" in why({"requirements.txt": "flask", "requirements.lock": LINE}, upgrade=True)
    evil = {"requirements.txt": "flask", "requirements.lock": "-r /etc/passwd\n"}
    assert "requirements.lock:1: " in why(evil, again=True), "never read by anybody else"


# — whatever comes —

_scalars = st.one_of(
    st.text(max_size=12), st.integers(-9, 9), st.booleans(), st.none(), st.sampled_from([".", ZERO, "os"])
)
_keys = st.sampled_from(
    ["name", "version", "source", "dependencies", "wheels", "hash", "hashes", "sha256", "marker", "extra", "extras",
     "metadata", "requires-dist", "registry", "virtual", "optional-dependencies", "specifier", "directory", "x"]
)  # fmt: skip
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_keys, inner, max_size=5)),
    max_leaves=12,
)


@given(st.lists(_values, max_size=3), st.dictionaries(_keys, _values, max_size=4))
def test_any_tree_is_read_or_rejected(packages: list[Any], more: dict[str, Any]) -> None:
    root = {"name": "shop", "source": {"virtual": "."}, **more}
    trees = {
        "uv.lock": {"version": 1, "package": [root, *packages]},
        "pylock.toml": {"lock-version": "1.0", "packages": packages, **more},
        "pyproject.toml": {"project": {"name": "shop", **more}, "tool": {"uv": more}, "build-system": packages},
    }
    real = tomllib.loads
    for name, tree in trees.items():
        files = {"pyproject.toml": project("flask"), name: "x = 1\n"}
        answers = {"x = 1\n": tree}
        try:
            tomllib.loads = lambda text, answers=answers: answers[text] if text in answers else real(text)  # type: ignore[assignment, misc]
            found = find(files)
        except Rejected as error:
            assert str(error)
        else:
            requirements.read_lock("\n".join(found.lock).encode(), "lock")
            for line in found.lines:
                requirements.one(line, "x")
        finally:
            tomllib.loads = real


@given(st.binary(max_size=200), st.sampled_from(["pyproject.toml", "uv.lock", "pylock.toml", "requirements.lock"]))
def test_any_bytes_are_read_or_rejected(content: bytes, name: str) -> None:
    try:
        find({"pyproject.toml": project("flask"), name: content})
    except Rejected as error:
        assert str(error).startswith(name)


def test_sizes() -> None:
    assert "at most" in why({"pyproject.toml": b"#" * (5 << 20)})
    many = UV + "".join(f'[[package]]\nname = "p{n}"\nversion = "1"\n' for n in range(6000))
    assert find({"pyproject.toml": project("flask>=3"), "uv.lock": many}).lock == (LINE,)
    assert locks.MAX_PACKAGES == 5000
