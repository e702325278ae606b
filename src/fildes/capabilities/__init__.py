"""One folder a kind of capability: grant.py (what is declared), driver.py (opens it), face.py (what the holder calls).

Adding a kind is adding a folder, and its name to `kinds.py`. A face is the tenant's side: it loads neither its
driver nor anything outside the standard library. Nothing is imported here, so that a face stays cheap.
"""
