"""Runs Python functions: the zygote that instances are forked from, and what an instance does.

It has nothing of Mayfly's but the contract in ``runtimes/CONTRACT.md``: the standard library and msgpack are all it
imports, and user code sees neither this package's folder nor msgpack.
"""
