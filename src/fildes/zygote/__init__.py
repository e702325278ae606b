"""The warm interpreter of one release: loads the tenant's program while it may, then forks its instances.

It runs the tenant's code from its first import on: it is the tenant. Nothing it says is believed.
"""
