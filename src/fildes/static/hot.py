"""What was answered lately."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from fildes.static.plan import Plan

_ENTRIES: Final = 4096
_BYTES: Final = 32 << 20


class Hot:
    """Plans by the whole bytes of their requests, bounded; the oldest go first."""

    def __init__(self) -> None:
        self._plans: OrderedDict[bytes, Plan] = OrderedDict()
        self._bytes = 0
        self.get = self._plans.get

    def put(self, request: bytes, plan: Plan) -> None:
        if request in self._plans:
            return
        self._plans[request] = plan
        self._bytes += plan.size + len(request)
        while len(self._plans) > _ENTRIES or self._bytes > _BYTES:
            old, gone = self._plans.popitem(last=False)
            self._bytes -= gone.size + len(old)

    def clear(self) -> None:
        self._plans.clear()
        self._bytes = 0

    def drop_gone(self) -> None:
        """Forget what is sent from packs that are closed."""
        for request in [r for r, plan in self._plans.items() if plan.site is not None and plan.site.gone]:
            plan = self._plans.pop(request)
            self._bytes -= plan.size + len(request)
