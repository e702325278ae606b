"""The operator's door: what the CLI and the debug process say over the control socket.

STATE/control is a SOCK_SEQPACKET socket. A datagram is one of the tagged msgpack maps below, in both directions;
descriptors ride beside it. The CLI asks; then come any number of `Note`s, and one `Answer` or `Failed` with the same
id. Several asks may be under way on one connection. When the CLI goes away, what it asked for is given up as far as
that is still possible: a publish is cancelled unless it is being switched to.

Who asks is the peer's uid, attested by the kernel (SO_PEERCRED, unix(7)); messages name nobody. Operators are root
and the user who ran `fildes up`; owners are those whom an operator named with `fildes owner add` (debug/access.py).

An answer larger than MAX_INLINE comes as a sealed memfd: `memfd` is true, and the body is in the last descriptor.
Where processes are listed, `pidfds` in the body says how many descriptors are pidfds, the first ones, in the order in
which the body lists its processes: only so can a CLI outside of the node's PID namespace know them.
"""

from __future__ import annotations

from typing import Final

import msgspec

MAX_DATAGRAM: Final = 128 * 1024  # bytes
MAX_INLINE: Final = 64 * 1024
MAX_FDS: Final = 240  # SCM_MAX_FD is 253

# verb → what is asked with it, and what comes back. The bodies are maps with these keys.
VERBS: Final = {
    "ps": "{service, all, quiet} → {services, more, daemons, pidfds} + [pidfd…]",
    "publish": "{name, owner, upgrade, lock, folder} + [tar] → wire.catalogue.Published; Notes tell the phases",
    "repack": "{service, release} → wire.catalogue.Published; Notes tell the phases",
    "foreign": "{} → {services}: those whose release is packed for another Python than the node's",
    "lock": "{service} → {} + [sealed memfd: requirements.lock of its release], or no descriptor if it has none",
    "logs": "{service, lines, follow} → {} + [read end of a pipe]",
    "caps": "{service} → {service, grants, processes: [{name, pid, error, fds: [{fd, target, kind, why}]}], pidfds}"
    " + [pidfd…]",
    "releases": "{service} → wire.catalogue.ReleaseList",
    "rollback": "{service, release} → wire.catalogue.Published",
    "run": "{service, arguments, release, terminal} + [lease, stdin, stdout, stderr] → wire.orchestrator.Running",
    "stop": "{service} → {instances}",
    "start": "{service} → {instances}",
    "freeze": "{service} → {instances}",
    "thaw": "{service} → {instances}",
    "rm": "{service, data} → {service, releases, kept}",
    "db-list": "{service} → {items: [{grant, kind, size}]}",
    "db-backup": "{service, grant} + [file, to be written] → {size}",
    "db-restore": "{service, grant} + [file, to be read] → {size}",
    "secret-set": "{service, name, owner} + [sealed memfd] → {}",
    "secret-list": "{service, owner} → {names}",
    "secret-rm": "{service, name, owner} → {}",
    "whoami": "{} → {owner, operator}",
    "owners": "{} → wire.catalogue.LoginList",
    "owner-add": "{owner, uid} → {}",
    "owner-rm": "{uid} → {}",
    "gc": "{owner, keep, dry} → {releases, size, caches}: bytes",
    "copy": "{secrets} → {uid_base} + [memfd: the database], with secrets [memfd: msgpack list of them]",
    "copy-data": "{owner, service, grant} + [file, to be written] → {size}",
    "policy": "{owner, change} → wire.catalogue.Policy as it is afterwards",
    "explain": "{service} → {denials: [wire.bus.Denial]}",
    "plan": "{service} → {steps: [str]}",
}


class Ask(msgspec.Struct, tag="ask", forbid_unknown_fields=True):
    id: int
    verb: str
    body: msgspec.Raw


class Answer(msgspec.Struct, tag="answer", forbid_unknown_fields=True):
    id: int
    body: msgspec.Raw
    memfd: bool = False


class Failed(msgspec.Struct, tag="failed", forbid_unknown_fields=True):
    """`text` says what to do; `grant`: the lines of a manifest that would have allowed it."""

    id: int
    code: str
    text: str
    grant: str | None = None


class Note(msgspec.Struct, tag="note", forbid_unknown_fields=True):
    """A phase of what was asked is done; `ms` is what it took."""

    id: int
    phase: str
    text: str
    ms: float


ToDebug = Ask
ToCli = Answer | Failed | Note
