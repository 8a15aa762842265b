"""Mayfly from a Python program: functions are called, and managed, over NATS.

    async with mayfly.Client() as client:                       # the platform in ./.mayfly
        result = await client.invoke("hello", {"name": "Ada"})
        print(result.value)

Given a platform's data directory (or nothing: ``MAYFLY_DATA``, else ``.mayfly``) the client is the platform's
operator. Given only the address of a NATS server it is anonymous: it may call functions, also durably, and publish
events, and nothing else.
"""

from mayfly.client.calls import Calls
from mayfly.client.dead_letters import DeadLetters
from mayfly.client.durable import Durable, NoResultYet
from mayfly.client.functions import Functions
from mayfly.client.nodes import Nodes
from mayfly.client.payload import Result

__all__ = ["Client", "NoResultYet", "Result"]


class Client(Calls, Durable, DeadLetters, Functions, Nodes):
    """``data``: a platform's data directory. ``nats``: a server's address instead, with ``user`` and ``password``, and
    ``ca_file`` for a ``tls://`` address whose certificate somebody of your own has signed.

    To be entered with ``async with``, which raises `platform_file.PlatformNotFound` and `BusError`.
    """
