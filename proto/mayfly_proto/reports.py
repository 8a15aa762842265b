"""Load reports as they are read by those who hear a thousand a second: what one tells of functions stays JSON until
somebody asks for it. Every field is one of the record's."""

import msgspec

from mayfly_proto import states


class NodeReport(msgspec.Struct, gc=False):
    """Of a `NodeLoad`."""

    node: str
    epoch: int
    memory_used_mb: int
    cpu_percent: float
    instances: msgspec.Raw
    state: str = states.Node.UP.value
    starts: int = 0
    evicted: int = 0


class RouterReport(msgspec.Struct):
    """A `RouterLoad`; also as a router makes it, of functions that were encoded when they were looked at."""

    router: str
    epoch: int
    functions: dict[str, msgspec.Raw]
