"""What this platform lets a function's settings name: the ports that are not its own, and what ``access.toml`` grants.

Each check answers with the end of a sentence, or "" when there is nothing to say; the setting to change is in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from mayfly_broker import access
from mayfly_broker.access import Access
from mayfly_proto import subjects


@dataclass(frozen=True, slots=True)
class Allowed:
    platform_ports: frozenset[int] = frozenset()
    access: Access = access.NOTHING

    def triggering(self, subject: str) -> str:
        return _unless(
            _covered(self.access.trigger_subjects, subject), subject, "trigger functions", "trigger_subjects"
        )

    def publishing(self, subject: str) -> str:
        covered = _covered((subjects.EVENTS, *self.access.publish_subjects), subject)
        return _unless(covered, subject, "be published to by functions", "publish_subjects")

    def telling(self, subject: str) -> str:
        """As `publishing`, by a function's code itself: a metric is a number of core NATS, which nothing keeps."""
        return "" if access.covers(subjects.METRICS, subject) else self.publishing(subject)

    def bucket(self, bucket: str) -> str:
        return _unless(bucket in self.access.kv_buckets, bucket, "be used by functions", "kv_buckets")

    def objects(self, bucket: str) -> str:
        return _unless(bucket in self.access.object_buckets, bucket, "be used by functions", "object_buckets")


NOTHING = Allowed()


def _covered(patterns: Iterable[str], subject: str) -> bool:
    return any(access.covers(pattern, subject) for pattern in patterns)


def _unless(granted: bool, what: str, do: str, setting: str) -> str:
    return (
        "" if granted else f"may not {do} here: whoever runs the platform can add it to {setting} in {access.FILENAME}"
    )
