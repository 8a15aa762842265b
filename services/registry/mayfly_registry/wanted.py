"""What a version needs in NATS beside its code: consumers and schedules. Decides only; `wiring` makes them."""

from dataclasses import dataclass
from typing import Any

import msgspec

from mayfly_proto import headers, storage, subjects
from mayfly_proto.records import Trigger, VersionSpec
from mayfly_registry import schedules

FUNCTION = "mayfly.function"  # metadata of a consumer: whose it is; one without it is none of ours
PAUSED_UNTIL = "2200-01-01T00:00:00Z"

ACK_WAIT_S = 10  # the router extends it while a call runs
MAX_ACK_PENDING = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    stream: str
    name: str
    function: str
    filter_subject: str
    start: str  # new, all or RFC 3339
    field: str = ""  # of the manifest, for a stream of the user's: whom to name when it is not there
    bucket: str = ""  # of objects, when that is what the user knows the stream as

    @property
    def key(self) -> tuple[str, str]:
        return self.stream, self.name

    def config(self, *, paused: bool) -> dict[str, Any]:
        """In the server's own format."""
        start: dict[str, str] = {"deliver_policy": self.start}
        if self.start not in ("new", "all"):
            start = {"deliver_policy": "by_start_time", "opt_start_time": self.start}
        return {
            "name": self.name,
            "durable_name": self.name,
            "filter_subject": self.filter_subject,
            "ack_policy": "explicit",
            "ack_wait": ACK_WAIT_S * 1_000_000_000,
            "max_deliver": -1,
            "max_ack_pending": MAX_ACK_PENDING,
            "metadata": {FUNCTION: self.function},
            **start,
            **({"pause_until": PAUSED_UNTIL} if paused else {}),
        }


@dataclass(frozen=True, slots=True)
class Schedule:
    function: str
    subject: str
    headers: dict[str, str]
    payload: bytes

    def same_as(self, raw: bytes, payload: bytes) -> bool:
        """Whether a stored message says the same."""
        names = (headers.SCHEDULE, headers.SCHEDULE_TARGET, headers.SCHEDULE_TIME_ZONE)
        stored = headers.parse(raw)
        return payload == self.payload and all(stored.get(name) == self.headers.get(name) for name in names)


def consumers(spec: VersionSpec) -> list[Consumer]:
    """Those that may be refused come first."""
    calls = {storage.ASYNC: subjects.async_call(spec.name), storage.SCHEDULES: subjects.due(spec.name)}
    durable = [(index, trigger) for index, trigger in enumerate(spec.triggers) if trigger.durable_stream]
    return [
        *(_of_trigger(spec.name, index, trigger) for index, trigger in durable),
        *(
            Consumer(
                stream=stream,
                name=storage.call_consumer(spec.name),
                function=spec.name,
                filter_subject=subject,
                start="all",  # as a work queue wants it
            )
            for stream, subject in calls.items()
        ),
    ]


def scheduled(spec: VersionSpec) -> list[Schedule]:
    return [
        Schedule(
            function=spec.name,
            subject=schedule_subject(spec.name, trigger),
            headers={
                headers.SCHEDULE: schedules.for_server(trigger.schedule),
                headers.SCHEDULE_TARGET: subjects.due(spec.name),
                **({headers.SCHEDULE_TIME_ZONE: trigger.timezone} if trigger.timezone else {}),
                headers.TTL: "never",
                **({headers.CONTENT_TYPE: "application/json"} if trigger.payload is not None else {}),
            },
            payload=b"" if trigger.payload is None else msgspec.json.encode(trigger.payload),
        )
        for trigger in spec.triggers
        if trigger.schedule
    ]


def schedule_subject(function: str, trigger: Trigger) -> str:
    return subjects.schedule(function, f"t{trigger.number}")


def _of_trigger(function: str, index: int, trigger: Trigger) -> Consumer:
    kind = "object" if trigger.object else "stream"
    return Consumer(
        stream=trigger.durable_stream,
        name=storage.event_consumer(function, trigger.number),
        function=function,
        filter_subject=trigger.filter_subject,
        start=trigger.start,
        field="" if trigger.event else f"triggers[{index}].{kind}",
        bucket=trigger.object,
    )
