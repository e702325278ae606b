"""The assembler against an interpreter of its output: what a filter decides is what its rules say."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fildes.kernel.abi import AUDIT_ARCH, NUMBERS
from fildes.kernel.seccomp import (
    RET_ALLOW,
    RET_KILL_PROCESS,
    RET_TRAP,
    RET_USER_NOTIF,
    Clause,
    Condition,
    assemble,
    return_errno,
)
from fildes.sandbox import profile

MACHINES = sorted(NUMBERS)
DEFAULT, BEYOND = return_errno(errno.EPERM), return_errno(errno.ENOSYS)


def interpret(program: bytes, nr: int, arguments: tuple[int, ...], arch: int) -> int:
    """classic BPF, as far as seccomp lets it (seccomp(2))."""
    code = list(struct.iter_unpack("=HBBI", program))
    data = struct.pack("<IIQ6Q", nr, arch, 0, *[a & 0xFFFFFFFFFFFFFFFF for a in arguments])
    accumulator = position = 0
    while True:
        operation, yes, no, k = code[position]
        position += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif operation == 0x54:
            accumulator &= k
        elif operation == 0x05:
            position += k
        elif operation == 0x06:
            return k
        else:
            true = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}
            position += yes if true[operation] else no


def expected(rules: dict[int, tuple[Clause, ...]], nr: int, arguments: tuple[int, ...]) -> int:
    if nr > max(rules, default=-1):
        return BEYOND
    for clause in rules.get(nr, ()):
        if all(condition.holds(arguments) for condition in clause.conditions):
            return clause.action
    return DEFAULT


words = st.one_of(st.integers(0, 8), st.sampled_from([2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1]))
narrow = st.builds(
    lambda index, op, values, mask: Condition(index, op, tuple(values[: None if op == "in" else 1]), mask),
    st.integers(0, 5),
    st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in"]),
    st.lists(words, min_size=1, max_size=4),
    st.sampled_from([0xFFFFFFFFFFFFFFFF, 0x6, 0xFFFFFFF8]),
)
wide = st.builds(
    lambda index, op, value, mask: Condition(index, op, (value,), mask, True),
    st.integers(0, 5),
    st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
    words,
    st.sampled_from([0xFFFFFFFFFFFFFFFF, 0x100000006, 0xFFFFFFFF00000000]),
)
actions = st.sampled_from([RET_ALLOW, RET_TRAP, RET_USER_NOTIF, RET_KILL_PROCESS, return_errno(22)])
clauses = st.builds(
    lambda action, conditions: Clause(action, tuple(conditions)), actions, st.lists(narrow | wide, max_size=3)
)
rule_sets = st.dictionaries(st.integers(0, 60), st.lists(clauses, max_size=3).map(tuple), max_size=30)


@settings(max_examples=150, deadline=None)
@given(
    rule_sets, st.sampled_from(MACHINES), st.lists(st.tuples(st.integers(0, 70), st.tuples(*[words] * 6)), max_size=20)
)
def test_filter_decides_as_its_rules(rules, machine, calls):
    program = assemble(rules, DEFAULT, beyond=BEYOND, machine=machine)
    for nr in range(65):
        calls = [*calls, (nr, (nr & 7, 0, 1, 2**32, 7, 2**64 - 1))]
    for nr, arguments in calls:
        assert interpret(program, nr, arguments, AUDIT_ARCH[machine]) == expected(rules, nr, arguments), (nr, arguments)


def test_targets_out_of_reach_of_a_conditional_jump():
    rules = {
        nr: tuple(Clause(return_errno(value + 1), (Condition(1, "==", (1000 * nr + value,)),)) for value in range(20))
        for nr in range(0, 120, 2)
    }
    program = assemble(rules, DEFAULT, beyond=BEYOND)
    assert len(program) // 8 > 2000
    arch = AUDIT_ARCH["x86_64"]
    program = assemble(rules, DEFAULT, beyond=BEYOND, machine="x86_64")
    for nr in range(125):
        for value in (0, 19, 20):
            arguments = (0, 1000 * nr + value, 0, 0, 0, 0)
            assert interpret(program, nr, arguments, arch) == expected(rules, nr, arguments)


def test_a_set_larger_than_a_jump_reaches():
    rules = {1: (Clause(RET_ALLOW, (Condition(0, "in", tuple(range(0, 1400, 2))),)),)}
    program = assemble(rules, DEFAULT, machine="aarch64")
    for value in range(1400):
        answer = RET_ALLOW if value % 2 == 0 else DEFAULT
        assert interpret(program, 1, (value, 0, 0, 0, 0, 0), AUDIT_ARCH["aarch64"]) == answer


def test_too_long_a_filter_is_refused():
    rules = {nr: (Clause(RET_ALLOW, (Condition(0, "in", tuple(range(nr, nr + 40))),)),) for nr in range(200)}
    with pytest.raises(ValueError, match="the kernel takes 4096"):
        assemble(rules, DEFAULT)


def test_other_architectures_are_killed_and_x32_is_absent():
    program = assemble({0: (Clause(RET_ALLOW),)}, DEFAULT, machine="x86_64")
    nothing = (0,) * 6
    assert interpret(program, 0, nothing, AUDIT_ARCH["x86_64"]) == RET_ALLOW
    assert interpret(program, 0, nothing, 0x40000003) == RET_KILL_PROCESS  # AUDIT_ARCH_I386
    assert interpret(program, 0, nothing, AUDIT_ARCH["aarch64"]) == RET_KILL_PROCESS
    for number in (0x40000000, 0x40000001, 0x7FFFFFFF, 0xFFFFFFFF):
        assert interpret(program, number, nothing, AUDIT_ARCH["x86_64"]) == return_errno(errno.ENOSYS)


def test_always_allowed_calls_take_few_steps():
    """Binary search: no call of a large profile needs more than a dozen comparisons of its number."""
    program = profile.compile(profile.load("serve"), machine="x86_64")
    code = list(struct.iter_unpack("=HBBI", program))

    def depth(position: int, steps: int) -> int:
        operation, yes, no, k = code[position]
        if operation == 0x06:
            return steps
        if operation == 0x05:
            return depth(position + 1 + k, steps + 1)
        if operation in (0x20, 0x54):
            return depth(position + 1, steps + 1)
        return max(depth(position + 1 + yes, steps + 1), depth(position + 1 + no, steps + 1))

    read = NUMBERS["x86_64"]["read"]
    steps, position, accumulator = 0, 0, 0
    while code[position][0] != 0x06:
        operation, yes, no, k = code[position]
        steps += 1
        position += 1
        if operation == 0x20:
            accumulator = {0: read, 4: AUDIT_ARCH["x86_64"]}[k]
        elif operation == 0x05:
            position += k
        else:
            position += yes if {0x15: accumulator == k, 0x35: accumulator >= k}[operation] else no
    assert steps <= 16
    assert depth(0, 0) < 80


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", profile.names())
def test_compiled_profile_decides_as_its_lines(name, machine):
    stated = profile.load(name)
    program = profile.compile(stated, machine=machine)
    arch, numbers = AUDIT_ARCH[machine], NUMBERS[machine]
    for call, number in numbers.items():
        for value in (0, 1, 2, 3, 4, 6, 17, 0x10500, 2**32, 2**64 - 1):
            arguments = (value,) * 6
            assert interpret(program, number, arguments, arch) == stated.decide(call, arguments), call
    assert interpret(program, max(numbers.values()) + 1, (0,) * 6, arch) == stated.beyond
