"""Datasette as an ASGI program: one database that comes along, never changed, and one that is kept."""

import os

from datasette.app import Datasette

KEPT = os.environ.get("KEPT", "/data/notes.db")
METADATA = {
    "title": "Signs",
    "databases": {
        "unicode": {
            "tables": {"sign": {"facets": ["category"], "sort": "code", "label_column": "name"}},
            "queries": {"longest": {"sql": "select name from sign order by length(name) desc limit :most"}},
        }
    },
}

app = Datasette(
    [KEPT], immutables=["unicode.db"], metadata=METADATA, secret="a-secret-for-signing", settings={"num_sql_threads": 2}
).app()
