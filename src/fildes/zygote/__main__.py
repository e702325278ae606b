"""Where the orchestrator's exec arrives: python -I -S -B /fildes/lib/fildes/zygote/__main__.py CONTROL-FD."""

import sys

sys.path.insert(0, "/fildes/lib")

from fildes.zygote.main import main

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
