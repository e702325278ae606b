"""Credits, copies and allowances: pure counting."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fildes.web.credits import Allowance, Budget, Copies, Ledger


def test_a_connection_goes_through_its_life():
    budget = Budget(10)
    ledger = Ledger(budget, credit=2)
    ledger.sent(1)
    ledger.sent(2)
    assert ledger.room() == 0 and budget.used == 2
    assert ledger.took(1, 77) and not ledger.took(1, 77) and not ledger.took(9, 77)
    assert ledger.room() == 1
    assert ledger.forget(1) and not ledger.forget(1)
    assert ledger.forget(2), '"D" says "T" too'
    assert budget.used == 0


def test_the_common_budget_binds_all():
    budget = Budget(3)
    one, other = Ledger(budget), Ledger(budget)
    for serial in range(3):
        one.sent(serial)
    assert other.room() == 0
    one.took(0, 1)
    assert other.room() == 1


def test_who_took_what():
    ledger = Ledger(Budget(9))
    for serial, pid in ((1, 7), (2, 7), (3, 8)):
        ledger.sent(serial)
        ledger.took(serial, pid)
    ledger.sent(4)
    assert ledger.forget_taken_by(7) == [1, 2]
    assert ledger.forget_taken_by(0) == [3]
    assert ledger.forget_all() == [4]


@given(st.lists(st.tuples(st.sampled_from(["sent", "took", "forget", "all"]), st.integers(0, 9))))
def test_the_budget_is_the_sum_of_the_ledgers_whatever_tenants_say(steps):
    budget = Budget(1000)
    ledgers = Ledger(budget), Ledger(budget)
    for number, (step, serial) in enumerate(steps):
        ledger = ledgers[number % 2]
        if step == "sent":
            if serial not in ledger.unacknowledged and serial not in ledger.taken:
                ledger.sent(serial)
        elif step == "took":
            ledger.took(serial, 1)
        elif step == "forget":
            ledger.forget(serial)
        else:
            ledger.forget_all()
        assert budget.used == sum(len(each.unacknowledged) for each in ledgers)


def test_the_oldest_copy_is_forgone():
    copies: Copies[str] = Copies(2)
    assert copies.keep(1, "a") is None and copies.keep(2, "b") is None
    assert copies.take(1) == "a" and copies.take(1) is None
    assert copies.keep(3, "c") is None and copies.keep(4, "d") == "b"
    assert len(copies) == 2


def test_an_allowance_refills():
    allowance = Allowance(rate=10, burst=5)
    assert allowance.spend(0.0, 5) and not allowance.spend(0.0)
    assert allowance.spend(0.2) and allowance.spend(0.2) and not allowance.spend(0.2)
    assert allowance.spend(100.0, 50), "what came, came"
    assert not allowance.spend(101.0)
