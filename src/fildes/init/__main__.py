"""Where init's interpreter starts, at its first start and after an upgrade: `python -I -S …/__main__.py LEDGER`."""

import os
import sys

# Without `site` the interpreter knows only its own library; boot puts the rest in place from the ledger.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from fildes.init.boot import main

if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # descriptors and children are settled; there is nothing to unwind
