import os
from pathlib import Path

import pypiserver

app = pypiserver.app(
    roots=[Path(os.environ.get("WHEELS", "/data/wheels"))], password_file=".", authenticate=[], disable_fallback=True
)
