"""Which consumers and schedules are missing, too many, or wrongly paused. Decides only; `upkeep` acts.

What nobody wants stays while it is young, or while a spec wants it that may still be published; whoever removes it
looks once more at its function before. So a deploy never finds gone what it has just seen.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from mayfly_proto import storage, subjects
from mayfly_proto.records import FunctionRecord, VersionSpec
from mayfly_registry import wanted
from mayfly_registry.consumers import Info
from mayfly_registry.wanted import Consumer, Schedule

_IDENTITY = re.compile(r"t[0-9]+")  # the last word of a schedule's subject that a trigger has made


@dataclass(frozen=True, slots=True)
class Wishes:
    """What functions need as they are, and what those may need that are being deployed."""

    consumers: Mapping[tuple[str, str], Consumer]
    schedules: Mapping[str, Schedule]
    spared: frozenset[tuple[str, str]]  # keys of consumers
    spared_schedules: frozenset[str]
    functions: frozenset[str]  # that there are, or may be soon
    unreadable: frozenset[str]  # whose record or current spec cannot be read: nothing of theirs is touched


@dataclass(frozen=True, slots=True)
class Plan:
    make: list[Consumer]
    remove: list[Info]
    pause: list[Consumer]
    resume: list[Consumer]


def wishes(
    specs: Iterable[VersionSpec], records: Mapping[str, FunctionRecord], unreadable: Iterable[str], young: datetime
) -> Wishes:
    """``unreadable``: records. ``young``: what was made after that may still be on its way."""
    unclear = {*records, *unreadable}
    consumers: dict[tuple[str, str], Consumer] = {}
    schedules: dict[str, Schedule] = {}
    recent = []
    for spec in specs:
        record = records.get(spec.name)
        if record is not None and record.current == spec.version:
            unclear.discard(spec.name)
            consumers |= {consumer.key: consumer for consumer in wanted.consumers(spec)}
            schedules |= {schedule.subject: schedule for schedule in wanted.scheduled(spec)}
        elif datetime.fromisoformat(spec.created) >= young:
            recent.append(spec)
    return Wishes(
        consumers,
        schedules,
        frozenset(consumer.key for spec in recent for consumer in wanted.consumers(spec)),
        frozenset(schedule.subject for spec in recent for schedule in wanted.scheduled(spec)),
        frozenset((*records, *unreadable, *(spec.name for spec in recent))),
        frozenset(unclear),
    )


def streams(specs: Iterable[VersionSpec]) -> list[str]:
    """On which there may be consumers of ours."""
    of_triggers = {trigger.durable_stream for spec in specs for trigger in spec.triggers} - {""}
    return sorted(of_triggers | {storage.ASYNC, storage.SCHEDULES, storage.EVENTS})


def plan(wishes: Wishes, found: Iterable[Info], records: Mapping[str, FunctionRecord], young: datetime) -> Plan:
    there = {info.key: info for info in found}
    fitting = {key: info for key, info in there.items() if (w := wishes.consumers.get(key)) and info.is_of(w)}
    paused = {key: records[wishes.consumers[key].function].paused for key in fitting}
    return Plan(
        make=[consumer for key, consumer in wishes.consumers.items() if key not in fitting],
        remove=[info for info in there.values() if removable(wishes, info, young)],
        pause=[wishes.consumers[key] for key, info in fitting.items() if paused[key] and not info.paused],
        resume=[wishes.consumers[key] for key, info in fitting.items() if info.paused and not paused[key]],
    )


def removable(wishes: Wishes, info: Info, young: datetime) -> bool:
    """``wishes``: of its function at least."""
    ours = info.function and info.function not in wishes.unreadable
    unwanted = info.key not in wishes.consumers and info.key not in wishes.spared
    return bool(ours) and unwanted and info.created < young


def stray_schedules(found: Iterable[str], wishes: Wishes) -> list[str]:
    """Subjects of triggers' schedules that nobody wants, and of retries for functions that are gone."""
    return [
        subject
        for subject in found
        if subject not in wishes.schedules
        and subject not in wishes.spared_schedules
        and _function(subject) not in wishes.unreadable
        and (_IDENTITY.fullmatch(subject.rpartition(".")[2]) or _function(subject) not in wishes.functions)
    ]


def stray_due(found: Iterable[str], wishes: Wishes) -> list[str]:
    """The functions that something is due for, by its subject, and that are gone."""
    return sorted({subject.removeprefix(subjects.due("")) for subject in found} - set(wishes.functions))


def _function(schedule: str) -> str:
    return schedule.removeprefix(subjects.SCHEDULES[:-1]).rpartition(".")[0]
