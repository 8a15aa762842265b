"""Load reports as they are read by those who hear a thousand a second: what one tells of functions stays JSON until
somebody asks for it. Every field is one of the record's."""

from typing import Annotated

import msgspec
from msgspec import Meta

from mayfly_proto import states

Count = Annotated[int, Meta(ge=0, le=1 << 40)]
Percent = Annotated[float, Meta(ge=0, le=1e9)]


class NodeReport(msgspec.Struct, gc=False):
    """Of a `NodeLoad`."""

    node: str
    epoch: int
    memory_used_mb: Count
    cpu_percent: Percent
    instances: msgspec.Raw
    state: str = states.Node.UP.value
    starts: Count = 0
    evicted: Count = 0


class RouterReport(msgspec.Struct):
    """A `RouterLoad`; also as a router makes it, of functions that were encoded when they were looked at."""

    router: str
    epoch: int
    functions: dict[str, msgspec.Raw]
