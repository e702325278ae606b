"""Which interpreter this node's releases run on. Imported before a daemon confines itself: `sysconfig` reads files."""

from __future__ import annotations

import sysconfig
from typing import Final

ABI: Final = str(sysconfig.get_config_var("SOABI"))
"""as in "cpython-313-x86_64-linux-gnu"; a pack made for another one never runs here"""


def foreign(abi: str) -> bool:
    """Was a release's pack made for another interpreter? "" is a static site's, which needs none."""
    return abi not in ("", ABI)


def sentence(service: str, abi: str, release: str = "") -> str:
    """What to tell people of a release whose pack is foreign; `release` where it may not be the current one."""
    return (
        f"packed for another Python ({abi}) than this node's ({ABI}), and not run; "
        f"pack it again from the sources that are kept here: fildes repack {service}"
        + (f" --release {release}" if release else "")
    )
