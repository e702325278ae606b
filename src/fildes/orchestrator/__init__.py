"""Starts what the catalogue says exists: zygotes, instances, their cgroups and views; supervises them.

plan.py        what is to be done when something happens to a release: a table, no I/O
life.py        how an instance is, by what it said last: a table, no I/O
scale.py       how many instances a release should have: a decision, no I/O
staffing.py    one release, in three: how many instances it has and when another is started;
steered.py     what an operator says of it;
supervised.py  what happens to it, and the plan carried out
nursery.py     its zygote: loaded, kept, taken away
crew.py        its instances: counted, and followed to their ends
orders.py      those that it is to have more
doorway.py     its conveyor, and who knows of it
loading.py     from a release to its zygote behind the ratchet
launch.py      how a release's processes are confined while they load: the plan, as data
zygotes.py     one zygote: launched, loaded, ratcheted, ordered about
warden.py      answers the calls that are for loading only, and refuses them after the ratchet
kits.py        the descriptors that one instance gets
stock.py       the kit of the next instance, put together ahead
instances.py   one instance: its handle, its pidfd, what it says
conveyor.py    the socket on which a release's connections arrive
pace.py        loads for which nobody waits, a few at a time
freezing.py    a release's processes stand still
wishes.py      what holds over restarts: stopped, frozen
shelf.py       the current releases, packed
listing.py     what fildes ps shows
adoption.py    what a killed forerunner left
"""
