"""Where the interpreters of init and its keeper start: `python -I -S …/__main__.py init|up LEDGER …` (image.py)."""

import os
import sys

# Without `site` the interpreter knows only its own library; boot puts the rest in place from the ledger.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

if __name__ == "__main__":
    role, *words = sys.argv[1:]
    if role == "up":
        from fildes.init.keeper import main
    else:
        from fildes.init.boot import main
    status = main(words)
    sys.stderr.flush()
    os._exit(status)  # descriptors and children are settled; there is nothing to unwind
