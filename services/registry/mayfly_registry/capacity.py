"""What functions are promised for good, against what the platform can have: not more than it can keep.

A function's floor is the most that it may ever claim whatever others want: its reserved instances, those that are
always ready, or those of its largest provisioned time. A fifth of the memory is promised to nobody.
"""

from collections.abc import Iterable

from mayfly_proto.records import VersionSpec

SHARE = 0.8


def floor_mb(spec: VersionSpec) -> int:
    most = max((each.instances for each in spec.provisioned), default=0)
    return max(spec.reserved, spec.min_instances, most) * spec.memory_mb


def conflicts(
    spec: VersionSpec, before: VersionSpec | None, others: Iterable[VersionSpec], capacity_mb: int | None
) -> list[str]:
    """Why ``spec`` cannot take the place of ``before`` beside the ``others``: one sentence, or none.

    One that asks for no more than it had is never refused: the platform may have shrunk meanwhile, and that is no
    reason to keep a bad version. ``capacity_mb`` None: nobody knows what there can be.
    """
    wanted = floor_mb(spec)
    if capacity_mb is None or wanted <= (floor_mb(before) if before is not None else 0):
        return []
    taken, most = sum(map(floor_mb, others)), int(capacity_mb * SHARE)
    if wanted + taken <= most:
        return []
    return [
        f"{spec.name} is to have {wanted} MB for good (memory times the most of reserved, min_instances and"
        f" provisioned) and other functions have {taken} MB: {wanted + taken} MB are more than the {most} MB"
        f" ({SHARE:.0%} of {capacity_mb} MB) that this platform can promise"
    ]
