"""Where the orchestrator's exec arrives: python -I -S -B /fildes/lib/fildes/zygote/__main__.py CONTROL-FD."""

import os
import sys

sys.path.insert(0, "/fildes/lib")

from fildes.zygote import forking

forking.record()

from fildes.runtime import trap  # noqa: E402

trap.load()  # before much is allocated

from fildes.zygote.main import main  # noqa: E402

if __name__ == "__main__":
    status = main(int(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # what was made immortal can't be finalised
