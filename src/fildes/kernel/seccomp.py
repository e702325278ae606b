"""Seccomp filters: an assembler for the kernel's BPF (seccomp(2)), and their installation.

A filter is given as data: for each call number a list of clauses, the first that matches decides.

Facts that shape it:
- Jumps of BPF go forward only, conditional ones 255 instructions at most. So the program is laid out from
  its end: a target's distance is then known, and one that is too far gets a jump of its own in between.
- Since 5.11 the kernel works out which calls a filter allows whatever their arguments are, and no longer
  runs it for them. For the others, call numbers are searched by halves: about nine steps.
- A comparison of an `int` must look at 32 bits only: what is above them is up to the caller, and the kernel
  ignores it. A comparison of a pointer or a 64-bit word must look at both halves.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from fildes.kernel.abi import AUDIT_ARCH, X32_SYSCALL_BIT
from fildes.kernel.fds import Fd
from fildes.kernel.libc import MACHINE, syscall

SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_GET_ACTION_AVAIL: Final = 2  # 4.14
SECCOMP_FILTER_FLAG_TSYNC: Final = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 8
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: Final = 32  # 5.19

RET_KILL_PROCESS: Final = 0x80000000
RET_TRAP: Final = 0x00030000
RET_ERRNO: Final = 0x00050000
RET_USER_NOTIF: Final = 0x7FC00000
RET_ALLOW: Final = 0x7FFF0000

_LOAD, _EQUAL, _GREATER, _GREATER_EQUAL, _ANY_BIT, _JUMP, _AND, _RETURN = (
    0x20,  # BPF_LD | BPF_W | BPF_ABS
    0x15,  # BPF_JMP | BPF_JEQ | BPF_K
    0x25,  # BPF_JMP | BPF_JGT | BPF_K
    0x35,  # BPF_JMP | BPF_JGE | BPF_K
    0x45,  # BPF_JMP | BPF_JSET | BPF_K
    0x05,  # BPF_JMP | BPF_JA
    0x54,  # BPF_ALU | BPF_AND | BPF_K
    0x06,  # BPF_RET | BPF_K
)
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data
_FURTHEST = 255
_LONGEST = 4096  # BPF_MAXINSNS
_INSTRUCTION = struct.Struct("=HBBI")

Action = int


def return_errno(number: int) -> Action:
    """The action by which a call fails with `number`."""
    return RET_ERRNO | number


@dataclass(frozen=True)
class Condition:
    """argument[index] & mask  op  values, with op one of == != < <= > >= (one value) and `in` (32 bits).

    `wide` compares all 64 bits of the argument instead of the low 32.
    """

    index: int
    op: str
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFFFFFFFFFF
    wide: bool = False

    def holds(self, arguments: tuple[int, ...]) -> bool:
        """What the assembled filter decides, in Python: for tests and for explanations."""
        width = 0xFFFFFFFFFFFFFFFF if self.wide else 0xFFFFFFFF
        left, right = arguments[self.index] & self.mask & width, self.values[0] & width
        return {
            "in": left in [value & width for value in self.values],
            "==": left == right,
            "!=": left != right,
            "<": left < right,
            "<=": left <= right,
            ">": left > right,
            ">=": left >= right,
        }[self.op]


@dataclass(frozen=True)
class Clause:
    """`action` if all of `conditions` hold."""

    action: Action
    conditions: tuple[Condition, ...] = ()


Rules = Mapping[int, tuple[Clause, ...]]


class _Program:
    """Instructions laid out from the end: a position counts backwards from the program's last one."""

    def __init__(self) -> None:
        self._reversed: list[tuple[int, int, int, int]] = []
        self._returns: dict[Action, int] = {}

    def _put(self, code: int, k: int, yes: int = 0, no: int = 0) -> int:
        self._reversed.append((code, yes, no, k & 0xFFFFFFFF))
        return len(self._reversed) - 1

    def give(self, action: Action) -> int:
        """The position of a `return action`."""
        if action not in self._returns:
            self._returns[action] = self._put(_RETURN, action)
        return self._returns[action]

    def load(self, offset: int, then: int) -> int:
        return self._followed_by(_LOAD, offset, then)

    def mask(self, bits: int, then: int) -> int:
        return self._followed_by(_AND, bits, then)

    def _followed_by(self, code: int, k: int, then: int) -> int:
        distance = len(self._reversed) - 1 - then
        if distance:
            self._put(_JUMP, distance)
        return self._put(code, k)

    def branch(self, code: int, k: int, yes: int, no: int) -> int:
        if yes == no:
            return yes
        # Bringing one target near moves the other one away by an instruction: hence the loop.
        while (far := max(self._distance(yes), self._distance(no))) > _FURTHEST:
            near = self._put(_JUMP, far)
            yes, no = (near, no) if self._distance(yes) > self._distance(no) else (yes, near)
        return self._put(code, k, self._distance(yes), self._distance(no))

    def _distance(self, target: int) -> int:
        return len(self._reversed) - 1 - target

    def finish(self, entry: int) -> bytes:
        if self._distance(entry):
            self._put(_JUMP, self._distance(entry))
        if len(self._reversed) > _LONGEST:
            raise ValueError(f"a filter of {len(self._reversed)} instructions; the kernel takes {_LONGEST}")
        return b"".join(_INSTRUCTION.pack(*i) for i in reversed(self._reversed))


def assemble(rules: Rules, default: Action, *, beyond: Action | None = None, machine: str = MACHINE) -> bytes:
    """The filter for `rules`: call number → clauses; no clause matches, or no rule: `default`.

    `beyond` (default: `default`) is for numbers above every one in `rules`. Another architecture's calls
    kill the process; x32 numbers, which share x86_64's name, fail with ENOSYS.
    """
    program = _Program()
    spans = _spans(rules, default, default if beyond is None else beyond)
    bodies = [(first, _body(program, clauses)) for first, clauses in spans]
    entry = _search(program, bodies)
    if machine == "x86_64":
        entry = program.branch(_GREATER_EQUAL, X32_SYSCALL_BIT, program.give(return_errno(errno.ENOSYS)), entry)
    entry = program.load(_NR, entry)
    entry = program.branch(_EQUAL, AUDIT_ARCH[machine], entry, program.give(RET_KILL_PROCESS))
    return program.finish(program.load(_ARCH, entry))


def _spans(rules: Rules, default: Action, beyond: Action) -> list[tuple[int, tuple[Clause, ...]]]:
    """Rules as a partition of the numbers: (first number, clauses), equal neighbours merged."""
    last = max(rules, default=-1)
    spans: list[tuple[int, tuple[Clause, ...]]] = []
    for number in range(last + 2):
        clauses = rules.get(number, ()) if number <= last else (Clause(beyond),)
        clauses = _trimmed((*clauses, Clause(default)))
        if not spans or spans[-1][1] != clauses:
            spans.append((number, clauses))
    return spans


def _trimmed(clauses: tuple[Clause, ...]) -> tuple[Clause, ...]:
    """Without what comes after the first clause that always matches."""
    for position, clause in enumerate(clauses):
        if not clause.conditions:
            return clauses[: position + 1]
    return clauses


def _search(program: _Program, bodies: list[tuple[int, int]]) -> int:
    if len(bodies) == 1:
        return bodies[0][1]
    middle = len(bodies) // 2
    lower, upper = _search(program, bodies[:middle]), _search(program, bodies[middle:])
    return program.branch(_GREATER_EQUAL, bodies[middle][0], upper, lower)


def _body(program: _Program, clauses: tuple[Clause, ...]) -> int:
    entry = program.give(clauses[-1].action)
    for clause in reversed(clauses[:-1]):
        otherwise, entry = entry, program.give(clause.action)
        for condition in reversed(clause.conditions):
            entry = _test(program, condition, entry, otherwise)
    return entry


def _test(program: _Program, condition: Condition, yes: int, no: int) -> int:
    op = condition.op
    if op in ("!=", "<", "<="):
        return _test(program, replace(condition, op={"!=": "==", "<": ">=", "<=": ">"}[op]), no, yes)
    if op == "in":
        targets = (yes, no)
        for value in condition.values[:0:-1]:
            targets = (yes, program.branch(_EQUAL, value & 0xFFFFFFFF, *targets))
        return _word(program, condition, 0, _EQUAL, targets)
    code = {"==": _EQUAL, ">": _GREATER, ">=": _GREATER_EQUAL}[op]
    low = _word(program, condition, 0, code, (yes, no))
    if not condition.wide:
        return low
    same = _word(program, condition, 32, _EQUAL, (low, no))
    return same if op == "==" else _word(program, condition, 32, _GREATER, (yes, same))


def _word(program: _Program, condition: Condition, shift: int, code: int, targets: tuple[int, int]) -> int:
    """Compare the half of the argument that begins at bit `shift`."""
    mask, value = condition.mask >> shift & 0xFFFFFFFF, condition.values[0] >> shift & 0xFFFFFFFF
    if targets[0] == targets[1]:
        return targets[0]
    entry = program.branch(code, value, *targets)
    if mask != 0xFFFFFFFF:
        entry = program.mask(mask, entry)
    # Little-endian, which every machine in abi.py is: the low half comes first.
    return program.load(_ARGS + 8 * condition.index + shift // 8, entry)


class _SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def available(action: Action) -> bool:
    """Whether this kernel knows `action`."""
    try:
        return syscall("seccomp", SECCOMP_GET_ACTION_AVAIL, 0, action.to_bytes(4, "little")) == 0
    except OSError:
        return False


def install(program: bytes, *, listener: bool = False, every_thread: bool = False) -> Fd | None:
    """Add `program` to this thread's filters, for good. Needs no-new-privs or CAP_SYS_ADMIN.

    With `listener`, returns the descriptor on which USER_NOTIF calls wait; a process's filters may have one
    such only (EBUSY). `every_thread` puts it on all threads of the process or fails.
    """
    code = ctypes.create_string_buffer(program, len(program))
    fprog = _SockFprog(len(program) // _INSTRUCTION.size, ctypes.addressof(code))
    flags = SECCOMP_FILTER_FLAG_TSYNC if every_thread else 0
    if not listener:
        if syscall("seccomp", SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(fprog)):
            raise OSError(errno.ESRCH, "seccomp: another thread could not take the filter")
        return None
    flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER
    killable = flags | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    try:
        return Fd(syscall("seccomp", SECCOMP_SET_MODE_FILTER, killable, ctypes.byref(fprog)))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return Fd(syscall("seccomp", SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(fprog)))
