"""Starts what the catalogue says exists: zygotes, instances, their cgroups and views; supervises them.

plan.py        what is to be done when something happens to a release: a table, no I/O
supervised.py  one release: carries the plan out
loading.py     from a release to its zygote behind the ratchet
launch.py      how a release's processes are confined while they load: the plan, as data
zygotes.py     one zygote: launched, loaded, ratcheted, ordered about
warden.py      answers the calls that are for loading only, and refuses them after the ratchet
stock.py       the kit of descriptors that the next instance gets, put together ahead
instances.py   one instance
conveyor.py    the socket on which a release's connections arrive
adoption.py    what a killed forerunner left
"""
