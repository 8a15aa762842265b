"""Numbers of triggers that have a consumer or a schedule: a consumer's name, and so its position, goes by them.

A trigger keeps its number through every version of its function, and no number ever means two triggers: what counts
are all the specs that there are, published or on their way. Two deploys at once may choose the same; each looks after
it has written its spec, and whoever sees the other's chooses again.
"""

from collections.abc import Iterable

import msgspec

from mayfly_proto.records import Trigger, VersionSpec

Identity = tuple[str, str, str]


def identity(trigger: Trigger) -> Identity | None:
    """What makes it the same trigger in another version; None when it has no number."""
    if trigger.schedule:
        return ("schedule", trigger.schedule, trigger.timezone)
    if trigger.durable_stream:
        return ("stream", trigger.durable_stream, trigger.filter_subject)
    return None


def numbered(triggers: Iterable[Trigger], others: Iterable[VersionSpec]) -> list[Trigger]:
    """With the numbers that they have in other versions; new ones get what nobody has."""
    known = _known(others)
    highest = max(known.values(), default=0)
    result = []
    for trigger in triggers:
        who = identity(trigger)
        if who is not None and who not in known:
            highest += 1
            known[who] = highest
        result.append(msgspec.structs.replace(trigger, number=known[who] if who is not None else 0))
    return result


def clash(spec: VersionSpec, others: Iterable[VersionSpec]) -> bool:
    """Whether a number of ``spec`` means something else in another version, or one of its triggers has another."""
    ours = _known([spec])
    theirs = _known(other for other in others if other.version != spec.version)
    owners = {number: who for who, number in theirs.items()}
    return any(owners.get(number, who) != who or theirs.get(who, number) != number for who, number in ours.items())


def without(triggers: Iterable[Trigger]) -> list[Trigger]:
    """As they were before they had any."""
    return [msgspec.structs.replace(trigger, number=0) for trigger in triggers]


def _known(specs: Iterable[VersionSpec]) -> dict[Identity, int]:
    return {
        who: trigger.number
        for spec in sorted(specs, key=lambda spec: spec.version)
        for trigger in spec.triggers
        if (who := identity(trigger)) is not None
    }
