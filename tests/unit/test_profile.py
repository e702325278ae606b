"""The rules' language: what a line means, and what is said about one that means nothing."""

from __future__ import annotations

import errno

import pytest

from fildes.kernel import seccomp
from fildes.sandbox import profile
from fildes.sandbox.words import WORDS

HEAD = 'default = "EPERM"\nbeyond = "ENOSYS"\n[calls]\n'
ALLOW, NOTIFY, TRAP = seccomp.RET_ALLOW, seccomp.RET_USER_NOTIF, seccomp.RET_TRAP


def errors(number: int) -> int:
    return seccomp.return_errno(number)


def rule(text: str) -> profile.Profile:
    return profile.parse(f'{HEAD}ioctl = ["{text}", "a reason"]', "test")


@pytest.mark.parametrize(
    ("text", "arguments", "action"),
    [
        ("allow", (1, 2, 3), ALLOW),
        ("trap", (), TRAP),
        ("kill", (), seccomp.RET_KILL_PROCESS),
        ("ENOTTY", (), errors(errno.ENOTTY)),
        ("allow if a1 == FIONBIO; ENOTTY", (0, 0x5421), ALLOW),
        ("allow if a1 == FIONBIO; ENOTTY", (0, 0x5422), errors(errno.ENOTTY)),
        ("allow if a1 == FIONBIO", (0, 0x5422), errors(errno.EPERM)),
        ("allow if a1 in 1 2 0x10; notify", (0, 16), ALLOW),
        ("allow if a1 in 1 2 0x10; notify", (0, 3), NOTIFY),
        ("allow if a0 == 1 and a1 != 2; trap", (1, 3), ALLOW),
        ("allow if a0 == 1 and a1 != 2; trap", (1, 2), TRAP),
        ("allow if a2 & PROT_WRITE|PROT_EXEC == PROT_EXEC", (0, 0, 5), ALLOW),
        ("allow if a2 & PROT_WRITE|PROT_EXEC == PROT_EXEC", (0, 0, 6), errors(errno.EPERM)),
        ("allow if a1 & ~FUTEX_PRIVATE_FLAG == FUTEX_WAKE", (0, 129), ALLOW),
        ("allow if a1 & ~FUTEX_PRIVATE_FLAG == FUTEX_WAKE", (0, 257), errors(errno.EPERM)),
        ("allow if a0 == -1", (0xFFFFFFFF,), ALLOW),
        ("allow if a0 == -1", (2**64 - 1,), ALLOW),
        ("allow if wide a0 == -1", (0xFFFFFFFF,), errors(errno.EPERM)),
        ("allow if wide a0 == 0", (2**32,), errors(errno.EPERM)),
        ("allow if a0 == 0", (2**32,), ALLOW),
        ("allow if a5 >= 3", (0, 0, 0, 0, 0, 3), ALLOW),
        ("allow if a5 > 3", (0, 0, 0, 0, 0, 3), errors(errno.EPERM)),
        ("allow if a5 < 3", (0, 0, 0, 0, 0, 2), ALLOW),
        ("allow if a5 <= 3", (0, 0, 0, 0, 0, 3), ALLOW),
    ],
)
def test_what_a_rule_means(text: str, arguments: tuple[int, ...], action: int) -> None:
    assert rule(text).decide("ioctl", arguments) == action


def test_a_call_without_a_line_gets_the_default() -> None:
    assert rule("allow").decide("ptrace", ()) == errors(errno.EPERM)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "ioctl = 5", r"test\.toml, ioctl: expected \[\"rule\", \"reason\"\]"),
        (HEAD + 'ioctl = ["allow"]', "expected"),
        (HEAD + 'ioctl = ["allow", ""]', "expected"),
        (HEAD + 'ioctrl = ["allow", "why"]', "test.toml, ioctrl: no machine has a call of that name"),
        (HEAD + 'ioctl = ["alow", "why"]', "'alow' is neither allow"),
        (HEAD + 'ioctl = ["EWHAT", "why"]', "'EWHAT' is neither"),
        (HEAD + 'ioctl = ["allow if", "why"]', "'allow if' is neither"),
        (HEAD + 'ioctl = ["allow if a6 == 1", "why"]', "'a6 == 1' is no condition"),
        (HEAD + 'ioctl = ["allow if a1 = 1", "why"]', "is no condition"),
        (HEAD + 'ioctl = ["allow if a1 == NOTHING", "why"]', "'NOTHING' is neither a number nor a name"),
        (HEAD + 'ioctl = ["allow if a1 == 1 2", "why"]', "several values take `in`"),
        (HEAD + 'ioctl = ["allow if wide a1 in 1 2", "why"]', "several values take `in`"),
        ('default = "EPERM"\n', "say `default` and `beyond`"),
        ('default = "allow"\nbeyond = "ENOSYS"\n', "'allow' is neither|default: 'allow'"),
        (HEAD.replace("beyond", "after"), "unknown key 'after'"),
        ("default = ", "test.toml: Invalid value"),
    ],
)
def test_what_is_said_about_nonsense(text: str, words: str) -> None:
    with pytest.raises(profile.ProfileError, match=words):
        profile.parse(text, "test")


def test_extending_replaces_lines() -> None:
    text = 'extends = ["daemon", "serve"]\nbeyond = "EPERM"\n[calls]\nread = ["EBADF", "for the test"]\n'
    both = profile.parse(text, "test")
    daemon, serve = profile.load("daemon"), profile.load("serve")
    assert both.calls["read"].rule == "EBADF"
    assert both.calls["openat"] == serve.calls["openat"]
    assert both.calls.keys() == daemon.calls.keys() | serve.calls.keys()
    assert (both.default, both.beyond) == (daemon.default, errors(errno.EPERM))


@pytest.mark.parametrize("name", profile.names())
def test_every_line_has_a_rule_and_a_reason(name: str) -> None:
    stated = profile.load(name)
    assert stated.about.strip()
    for call in stated.calls.values():
        assert call.rule and call.reason
        assert stated.default & 0xFFFF0000 == seccomp.RET_ERRNO


def test_words_are_the_headers_values() -> None:
    """Against Python's own constants, module by module, where it has them."""
    import fcntl
    import mmap
    import os
    import select
    import signal
    import socket

    checked = 0
    for module in (fcntl, mmap, os, select, signal, socket):
        for word, value in WORDS.items():
            if hasattr(module, word):
                assert getattr(module, word) == value, word
                checked += 1
    assert checked > 60
