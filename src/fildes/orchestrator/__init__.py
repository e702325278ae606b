"""Starts what the catalogue says exists: zygotes, instances, their cgroups and views; supervises them.

plan.py        what is to be done when something happens to a release: a table, no I/O
supervised.py  one release: carries the plan out
launch.py      a process in its view, namespaces and filters, up to the exec of its interpreter
view.py        which files that process sees
warden.py      answers the calls that are for loading only, and refuses them after the ratchet
conveyor.py    the socket on which a release's connections arrive
"""
