from __future__ import annotations

from fildes.daemon.deadlines import Deadlines
from fildes.kernel.loop import Loop


def test_first_in_first_due_and_removed_ones_never():
    loop = Loop()
    expired: list[int] = []
    deadlines = Deadlines(loop, 0.02, expired.append)
    for key in range(200):
        deadlines.add(key)
    for key in range(0, 200, 2):
        deadlines.remove(key)
    deadlines.add(1)  # its time begins again
    assert deadlines.oldest() == 3 and len(deadlines) == 100
    while len(deadlines):
        loop.turn()
    assert expired == [*range(3, 200, 2), 1]
    loop.close()


def test_one_added_while_others_expire_gets_its_own_time():
    loop = Loop()
    expired: list[int] = []

    def again(key: int) -> None:
        expired.append(key)
        if key < 3:
            deadlines.add(key + 1)

    deadlines = Deadlines(loop, 0.01, again)
    began = loop.time()
    deadlines.add(0)
    while len(deadlines):
        loop.turn()
    assert expired == [0, 1, 2, 3] and loop.time() - began >= 0.04
    loop.close()
