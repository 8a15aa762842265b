"""Instances in a pool, brought to where a test wants them."""

from mayfly_proto.records import Package, VersionSpec
from mayfly_worker.group import Group, Instance
from mayfly_worker.pool import Pool


def spec(concurrency: int = 1, keep_alive_s: float = 90.0) -> VersionSpec:
    package = Package(sha256="0" * 64, size=1, format="py", filename="hello.py")
    return VersionSpec(
        name="hello",
        version=1,
        runtime="python",
        handler="hello:handler",
        package=package,
        created="",
        concurrency=concurrency,
        keep_alive_s=keep_alive_s,
        timeout_s=1000.0,
    )


def started(pool: Pool, *ids: str, function: str = "hello", memory_mb: int = 100, now: float = 0.0) -> list[Instance]:
    return pool.order(function, 1, memory_mb, ids, now).starting


def ready(
    pool: Pool,
    *ids: str,
    function: str = "hello",
    memory_mb: int = 100,
    concurrency: int = 1,
    keep_alive_s: float = 90.0,
    now: float = 0.0,
    cold_s: float = 0.0,
) -> list[Instance]:
    """``cold_s``: what their start took, up to ``now``."""
    instances = started(pool, *ids, function=function, memory_mb=memory_mb, now=now - cold_s)
    for instance in instances:
        instance.group.configure(spec(concurrency, keep_alive_s))
        instance.group.ready(instance, now)
    return instances


def take(group: Group) -> Instance:
    instance = group.take()
    assert instance is not None
    return instance


def use(instance: Instance, calls: int, now: float) -> None:
    """So many calls, the last of which ends at ``now``; no other of its group may be idle later."""
    for _ in range(calls):
        assert take(instance.group) is instance
        instance.group.release(instance, now)
