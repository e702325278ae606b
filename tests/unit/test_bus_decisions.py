"""The bus's pure parts: who may ask whom, who may have what, and what a channel may cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fildes.bus import routes
from fildes.bus.denials import Denials
from fildes.bus.grants import AskDriver, Introduce, Refuse, Table, decide
from fildes.bus.quota import Bucket, Unread
from fildes.wire.bus import Denial
from fildes.wire.catalogue import Grant, Rights, RightsDelta


def rights(service: str, *granted: Grant, offers: tuple[str, ...] = (), release: str = "") -> Rights:
    return Rights(release or f"r-{service}", service, "anna", list(granted), list(offers))


def table(*all_rights: Rights) -> Table:
    made = Table()
    made.replace(1, all_rights)
    return made


# — routes —


def test_every_verb_names_a_daemon_and_every_caller_is_one() -> None:
    for verb, callers in routes.ALLOWED.items():
        daemon, dot, word = verb.partition(".")
        assert daemon in routes.NUMBERS and dot and word
        assert callers <= routes.ANYBODY


def test_numbers_are_what_they_were() -> None:
    """Requests are under way while a bus is replaced by a newer one: these may be added to, never changed."""
    assert dict(routes.NUMBERS) == {
        "bus": 1, "log": 2, "shared": 3, "net": 4, "inspect": 5, "catalogue": 6,
        "orchestrator": 7, "static": 8, "web": 9, "publish": 10, "debug": 11, "storage": 12,
    }  # fmt: skip


@given(st.sampled_from(sorted(routes.NUMBERS)) | st.text(), st.text() | st.sampled_from(sorted(routes.ALLOWED)))
def test_what_is_not_listed_goes_nowhere(caller: str, verb: str) -> None:
    target = routes.target(caller, verb)
    if caller in routes.ALLOWED.get(verb, ()):
        assert target == verb.split(".", maxsplit=1)[0]
    else:
        assert target is None


def test_the_powerful_verbs_have_one_caller() -> None:
    assert routes.ALLOWED["bus.channel"] == {"orchestrator"}
    assert routes.ALLOWED["catalogue.publish"] == {"publish"}
    assert routes.ALLOWED["orchestrator.warm"] == {"catalogue"}
    assert not any("web" in who or "static" in who for verb, who in routes.ALLOWED.items() if ".open" in verb)
    assert not routes.may_answer("web", "inspect")
    assert routes.may_answer("catalogue", "bus")


# — grants —


def test_a_service_is_introduced_to_one_that_offers_itself() -> None:
    db = Grant("db", "connect", "ledger")
    ledger = rights("ledger", offers=("shop",))
    assert decide(rights("shop", db), "db", table(ledger)) == Introduce(db, "ledger", "r-ledger")


def test_kinds_go_to_their_drivers_with_their_options() -> None:
    cases = [
        (Grant("clock", "clock"), "shared", {}),
        (Grant("dice", "random"), "shared", {}),
        (Grant("key", "secret", None, {"secret": "api"}), "catalogue", {"secret": "api"}),
        (Grant("out", "connect", "a.org:5432", {"connections": 4}), "net", {"connections": 4, "to": "a.org:5432"}),
    ]
    for grant, driver, options in cases:
        assert decide(rights("shop", grant), grant.name, table()) == AskDriver(grant, driver, options)


def test_the_internal_log_cannot_be_granted_and_unknown_kinds_are_refused() -> None:
    for kind in ("log", "listen", ""):
        decision = decide(rights("shop", Grant("x", kind)), "x", table())
        assert isinstance(decision, Refuse) and decision.code == "no-kind"


def test_refusals_name_who_asked_what_and_the_line() -> None:
    shop = rights("shop", Grant("db", "connect", "ledger"))
    decision = decide(shop, "nothing", table())
    assert decision == Refuse(
        "no-grant",
        "shop asked for 'nothing' and was granted nothing of that name; it holds db",
        '[grants.nothing]\nkind = "connect"\nto = "nothing"',
    )
    decision = decide(shop, "db", table(rights("ledger", offers=("bank",))))
    assert isinstance(decision, Refuse) and decision.grant == '[offers]\nto = ["shop"]'
    assert "shop asked for 'db', a connection to ledger" in decision.text


@given(st.text())
def test_a_name_never_breaks_out_of_the_suggested_lines(name: str) -> None:
    decision = decide(rights("shop"), name, table())
    assert isinstance(decision, Refuse)
    if decision.grant is not None:
        assert len(decision.grant.split("\n")) <= 3 and '"' not in name and "\n" not in name


def test_a_table_follows_the_catalogue() -> None:
    held = Table()
    assert held.number is None
    held.replace(5, [rights("shop"), rights("ledger")])
    held.apply(RightsDelta(5, 6, [rights("shop", release="r2")], ["r-shop"]))
    assert held.number == 6
    assert held.of_service("shop") == rights("shop", release="r2")
    assert held.of_release("r-shop") is None
    assert held.replace(9, [rights("ledger")]) == {"r2"}
    assert held.of_service("shop") is None


def test_an_old_release_that_goes_does_not_take_the_current_one_with_it() -> None:
    held = table(rights("shop"))
    held.apply(RightsDelta(1, 2, [rights("shop", release="r2")], []))
    held.apply(RightsDelta(2, 3, [], ["r-shop"]))
    assert held.of_service("shop") == rights("shop", release="r2")


# — quotas —


def test_a_bucket_gives_a_burst_and_then_its_rate() -> None:
    bucket = Bucket(rate=10, burst=3, now=0.0)
    assert [bucket.take(0.0) for _ in range(3)] == [0, 0, 0]
    wait = bucket.take(0.0)
    assert wait == pytest.approx(0.1)
    assert bucket.take(wait) == 0
    assert bucket.take(100.0) == bucket.take(100.0) == bucket.take(100.0) == 0
    assert bucket.take(100.0) > 0
    assert Bucket(rate=0, burst=0, now=0.0).take(0.0) == 0


def test_unread_descriptors_are_bounded_by_what_was_sent_and_by_the_bytes_that_wait() -> None:
    unread = Unread(768)
    for _ in range(100):
        unread.sent(1)
    assert unread.at_most(1_000_000) == 100
    assert unread.at_most(3 * 768) == 3
    unread.sent(2)
    unread.sent(0)
    assert unread.at_most(3 * 768) == 3  # the last three: one, two and none
    assert unread.at_most(2000) == 2
    assert unread.at_most(0) == 0
    assert unread.at_most(768) == 0


# — denials —


def denial(service: str, number: int) -> Denial:
    return Denial(float(number), service, "r", "1", "db", "no-grant", "no")


def test_a_loud_service_does_not_push_the_others_out() -> None:
    denials = Denials()
    denials.add(denial("quiet", 0))
    for number in range(5000):
        denials.add(denial("loud", number))
    assert denials.of("quiet") == [denial("quiet", 0)]
    assert [each.when for each in denials.of("loud")] == [float(n) for n in range(4950, 5000)]
    for number in range(300):
        denials.add(denial(f"s{number}", number))
    assert len(denials.of(None)) == 200
    assert denials.count == 5301
