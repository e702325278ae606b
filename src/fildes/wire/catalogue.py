"""What is said to and by the catalogue, the only process that opens the database.

Following the catalogue
-----------------------
Ask ``catalogue.subscribe`` (the bus says who you are, hence what you are shown): the answer is a `Snapshot` and one
sealed memfd, a msgpack list of `Route` (web, static), `Rights` (bus) or `Release` (orchestrator), current ones only.
Then events ``<you>.delta`` come. The numbers are kept in the database and written in the same transaction as the
change itself, so they go on rising when the catalogue is killed, and an equal number means equal contents. What to do
with a delta says `follow`; in short: it applies when its ``after`` is the number you hold, it is old when its
``number`` is not above yours, and else something was missed: subscribe again, and treat everything that the new
snapshot does not list as gone. A catalogue that has just started sends a delta in which nothing is put or gone, so
that a change it did not live to announce is noticed. Apply ``gone`` (release ids) before ``put``; a release never
changes under its id. A release that was warmed but did not become current is named in ``gone`` as well.

``catalogue.open`` (kind secret) is a driver's open, see wire/drivers.py: the grant is looked up in the stored release,
and nothing else that the message says about it is believed.

Refusals carry one of the codes in `CODES`.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

AUDIENCES = ("web", "static", "bus", "orchestrator")

CODES: dict[str, str] = {
    "manifest": "the manifest claims what it may not; the text lists each line",
    "not-found": "no such service, release, secret or owner",
    "not-allowed": "the asker may not ask this, or the service is another owner's",
    "quota": "larger or more than the owner may have",
    "bundle": "the files sent are not what was announced, or cannot be read",
    "not-stored": "no files were sent, and those of an earlier publish are not here, or not any more",
    "disk-full": "the disk that holds the state is full; nothing was changed",
    "state": "the database or a stored file cannot be used",
    "malformed": "a name or value that cannot be; the text says what was expected",
    "no-grant": "the release was not granted what it asked for; the grant line is in the answer",
    "warm": "the program did not start; the text is the orchestrator's",
}

Runtime = Literal["asgi", "wsgi", "function", "service", "static"]
State = Literal["candidate", "current", "old"]


class Grant(Struct, frozen=True, forbid_unknown_fields=True):
    """One capability: found by the program under `name`; `to` is what a `connect` leads to."""

    name: str
    kind: str
    to: str | None = None
    options: dict[str, Any] = {}


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Of one instance: memory in bytes, cpu in cores, tasks = processes and threads, concurrency = requests at once.

    Of the service: `instances` at the most, `spares` that stand ready beyond those in use, `connections` at once,
    `log` bytes of its log that are kept. Of one request: `body` bytes, `timeout` seconds until its answer begins.
    """

    memory: int = 256 << 20
    cpu: float = 1.0
    tasks: int = 32
    concurrency: int = 64
    instances: int = 1
    spares: int = 0
    connections: int = 4096
    body: int = 100 << 20
    timeout: float = 60.0
    log: int = 8 << 20


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """What fildes.toml declares, checked (`fildes.manifest.read`).

    `hosts` are "host" or "host/prefix", lower case, ASCII (IDNA), without a trailing slash. `offers` are services that
    may connect to this one: "shop" is the same owner's, "anna/shop" is anna's. `on_release` are commands that run in
    the release's confinement before it becomes current ("python manage.py migrate"), `health` is a path that must
    then answer below 400, `extras` are those of its pyproject.toml that are installed.
    `filename` and `lines` ("hosts.0", "grants.db.to", … → line) are for error messages only.
    """

    name: str
    runtime: Runtime
    entry: str = ""
    hosts: list[str] = []
    env: dict[str, str] = {}
    grants: list[Grant] = []
    limits: Limits = Limits()
    offers: list[str] = []
    on_release: list[str] = []
    health: str = ""
    extras: list[str] = []
    filename: str = "fildes.toml"
    lines: dict[str, int] = {}


class Release(Struct, frozen=True, forbid_unknown_fields=True):
    """A manifest with its files. `bundle` and `pack` are the sha256 (hex) of the stored files; `uid` is the service's
    own, never another's as long as the state lives. `id` is 12 hex digits, unique."""

    id: str
    service: str
    owner: str
    runtime: Runtime
    entry: str
    hosts: list[str]
    env: dict[str, str]
    grants: list[Grant]
    limits: Limits
    offers: list[str]
    bundle: str
    pack: str
    abi: str
    uid: int
    state: State
    on_release: list[str] = []
    health: str = ""


class Route(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`prefix` is "/" (everything) or "/a/b": it matches that path and what lies below it, at whole segments.
    `body`, `timeout` and `connections` are those of Limits, which the door keeps."""

    host: str
    prefix: str
    service: str
    release: str
    owner: str
    runtime: Runtime
    body: int = 100 << 20
    timeout: float = 60.0
    connections: int = 4096


class Rights(Struct, frozen=True, forbid_unknown_fields=True):
    """`offers`: names of the services that may connect to this one (their owners were checked when they were
    published, so the names suffice)."""

    release: str
    service: str
    owner: str
    grants: list[Grant]
    offers: list[str]


class Subscribe(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.subscribe → Snapshot + [sealed memfd: msgpack list for the asker's audience]."""


class Snapshot(Struct, frozen=True, forbid_unknown_fields=True):
    number: int


class RouteDelta(Struct, frozen=True, forbid_unknown_fields=True):
    """Event web.delta and static.delta (static hears of static services only)."""

    after: int
    number: int
    put: list[Route] = []
    gone: list[str] = []


class RightsDelta(Struct, frozen=True, forbid_unknown_fields=True):
    """Event bus.delta."""

    after: int
    number: int
    put: list[Rights] = []
    gone: list[str] = []


class ReleaseDelta(Struct, frozen=True, forbid_unknown_fields=True):
    """Event orchestrator.delta. What is `gone` drains: 30 s, then it is ended."""

    after: int
    number: int
    put: list[Release] = []
    gone: list[str] = []


def follow(held: int | None, delta: RouteDelta | RightsDelta | ReleaseDelta) -> Literal["apply", "ignore", "subscribe"]:
    """What a subscriber that holds the snapshot numbered `held` (None: it waits for one) does with `delta`."""
    if held is None or delta.number <= held:
        return "ignore"
    return "apply" if delta.after == held else "subscribe"


class Publish(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.publish + [bundle file, pack file] → Published. Asked by publish only.

    `bundle` is the sha256 (hex) of the bundle file; both files are hashed again as they are copied. No fds at all:
    take the stored files of `bundle` and `abi` (see `Known`). `abi` is "" for static services.
    Refused: manifest, quota, bundle, disk-full, warm, not-allowed. The old release then goes on serving.
    """

    owner: str
    manifest: Manifest
    bundle: str
    abi: str = ""
    ticket: str = ""


class Published(Struct, frozen=True, forbid_unknown_fields=True):
    """`phases`: milliseconds of check, store, warm (and the orchestrator's own below it), switch. `replaced`: the
    release that was current before, and drains now."""

    release: str
    service: str
    urls: list[str]
    unchanged: bool = False
    phases: dict[str, float] = {}
    replaced: str = ""


class Known(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.known → Knowledge: are the files of this bundle, packed for this abi, stored for this owner?"""

    owner: str
    bundle: str
    abi: str = ""


class Knowledge(Struct, frozen=True, forbid_unknown_fields=True):
    """`pack`: sha256 of the pack, None when it has to be sent."""

    pack: str | None


class Sources(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.sources → Sourced + [fd of the bundle, O_RDONLY]: what a release (None: the current one) was made of.
    Refused: not-found."""

    service: str
    release: str | None = None


class Sourced(Struct, frozen=True, forbid_unknown_fields=True):
    release: str
    owner: str
    manifest: Manifest
    bundle: str
    abi: str


class Pack(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.pack → Packed + [fd of the pack, O_RDONLY]."""

    release: str


class Packed(Struct, frozen=True, forbid_unknown_fields=True):
    size: int


class FindRelease(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.release → Release: one that is stored, current or old. Asked by orchestrator only."""

    release: str


class Rollback(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.rollback → Published. Without `release`: the newest one published before the current one.
    It is checked against today's policy and warmed first, its commands and its health check too. `owner` None: an
    operator asks. `ticket`: as in Publish."""

    service: str
    release: str | None = None
    owner: str | None = None
    ticket: str = ""


class Remove(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.remove → Removed. The service, its releases, hosts and secrets; files nobody else needs."""

    service: str
    owner: str | None = None


class Removed(Struct, frozen=True, forbid_unknown_fields=True):
    service: str
    releases: int


class Releases(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.releases → ReleaseList, newest first."""

    service: str
    owner: str | None = None


class ReleaseInfo(Struct, frozen=True, forbid_unknown_fields=True):
    """`created` in unix seconds, `size` in bytes of bundle and pack."""

    release: str
    state: State
    created: float
    bundle: str
    abi: str
    size: int


class ReleaseList(Struct, frozen=True, forbid_unknown_fields=True):
    service: str
    releases: list[ReleaseInfo]


class Services(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.services → ServiceCount + [sealed memfd: msgpack list of ServiceInfo, by name].
    `owner` None: everybody's. `coming`: those too whose first release is on its way."""

    owner: str | None = None
    coming: bool = False


class ServiceCount(Struct, frozen=True, forbid_unknown_fields=True):
    count: int


class ServiceInfo(Struct, frozen=True, forbid_unknown_fields=True):
    service: str
    owner: str
    runtime: Runtime
    release: str
    hosts: list[str]
    urls: list[str]
    created: float
    abi: str = ""


class SecretSet(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.secret_set + [sealed memfd with the value, 1 byte to 64 KiB] → Done. May come before the first
    publish: then `owner` must be given. Instances that run keep the value that they hold."""

    service: str
    name: str
    owner: str | None = None


class SecretRemove(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.secret_rm → Done."""

    service: str
    name: str
    owner: str | None = None


class SecretList(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.secret_list → SecretNames. Values are never told."""

    service: str
    owner: str | None = None


class SecretNames(Struct, frozen=True, forbid_unknown_fields=True):
    names: list[str]


class Done(Struct, frozen=True, forbid_unknown_fields=True):
    pass


MOST_STATIC = 200_000_000  # bytes of a static bundle, whatever a policy says


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """What an owner's manifests may claim. Sizes in bytes, cpu in cores.

    `suffixes`: "*.localhost" (every name below localhost), "example.org" (that host itself), or "*" (every host).
    `static_bytes` and `program_bytes` bound one bundle of that sort (`MOST_STATIC` the former), and its pack in
    proportion; `storage` is the sum over the releases of the owner's other services and the new one; memory, cpu,
    tasks, concurrency, instances and log bound what [limits] may say; `data` the sum of the quotas that grants of the
    owner's services name. `private`: whether a `connect` to a host outside may say private = true, and so reach this
    machine and its own networks.
    """

    suffixes: list[str] = field(default_factory=lambda: ["*.localhost"])
    kinds: list[str] = field(default_factory=lambda: ["clock", "random", "secret", "connect", "files", "sqlite"])
    services: int = 20_000
    static_bytes: int = 50_000_000
    program_bytes: int = 512_000_000
    storage: int = 20_000_000_000
    memory: int = 4 << 30
    cpu: float = 16.0
    tasks: int = 1024
    concurrency: int = 4096
    instances: int = 16
    log: int = 256 << 20
    private: bool = False
    data: int = 1 << 40


class PolicyGet(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.policy_get → Policy; the default one for an owner who has none."""

    owner: str


class PolicySet(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.policy_set → Done. Holds from the next publish or rollback on; asked by operators only."""

    owner: str
    policy: Policy


class Login(Struct, frozen=True, forbid_unknown_fields=True):
    """At the control socket `uid` is `owner`."""

    uid: int
    owner: str


class Logins(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.logins → LoginList: that of `uid`, or all of them."""

    uid: int | None = None


class LoginList(Struct, frozen=True, forbid_unknown_fields=True):
    logins: list[Login]


class LoginAdd(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.login_add → Done. A uid stands for one owner; an owner may have several."""

    uid: int
    owner: str


class LoginRemove(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.login_rm → Done. What the owner published stays."""

    uid: int


class Copy(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.copy → Copied + [sealed memfd: the database without its secrets, as one file], and with `secrets`
    [sealed memfd: msgpack list of (owner, service, name, value)]. For a backup."""

    secrets: bool = False


class Copied(Struct, frozen=True, forbid_unknown_fields=True):
    """`uid_base`: what the uids in it are counted from."""

    uid_base: int


class Prune(Struct, frozen=True, forbid_unknown_fields=True):
    """catalogue.prune → Pruned. Old releases go but for the `keep` newest of each service, `owner`'s or (None)
    everybody's. `dry`: it only says what would go."""

    keep: int = 0
    owner: str | None = None
    dry: bool = False


class Pruned(Struct, frozen=True, forbid_unknown_fields=True):
    """`size` in bytes, of the files that nothing else needs."""

    releases: int
    size: int
