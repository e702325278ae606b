"""The catalogue: services, releases, hosts, owners, policies, secrets; only it opens the database.

STATE/catalogue holds catalogue.db (SQLite), objects/ (bundles and packs, each named by its sha256) and tmp/ (what is
being stored; swept at every start). Nothing is ever changed in place: a file is written to tmp/, synced, renamed and
its directory synced, before a row speaks of it; a row is gone before its file is.
"""
