"""What a user may say about how many instances a function has, for how long, and where they may be: checked.

What no field can know by itself (floors below the ceiling, a target that an instance can reach) is checked when all are
known, and all of it is reported at once.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from mayfly_proto import names, subjects
from mayfly_proto.cron import five_fields
from mayfly_registry import patterns, schedules
from mayfly_registry.problems import shown, wrong
from mayfly_registry.triggers import STRICT, checked_schedule

INSTANCES_LIMIT = 1000
KEEP_ALIVE_LIMIT_S = 3600
RATE_LIMIT = 1_000_000
LABELS_LIMIT = 32

CONCURRENCY = "concurrency"
PERCENTAGES = ("cpu", "memory")
OWN_METRICS = (CONCURRENCY, *PERCENTAGES)

_KEEP_ALIVE_RULE = f'must be "auto" or a number of seconds from 0 to {KEEP_ALIVE_LIMIT_S}'

Rate = Annotated[float, Field(ge=0, le=RATE_LIMIT, allow_inf_nan=False)]


class Provisioned(BaseModel):
    model_config = STRICT

    start: str
    end: str
    instances: Annotated[int, Field(ge=1, le=INSTANCES_LIMIT)]
    timezone: str = ""

    @field_validator("start", "end")
    @classmethod
    def _cron(cls, schedule: str) -> str:
        schedule = checked_schedule(schedule)
        if schedules.every(schedule):
            raise wrong(f"{shown(schedule)} is an interval: name a time, as 0 8 * * MON-FRI")
        return schedule

    @field_validator("timezone")
    @classmethod
    def _timezone(cls, timezone: str) -> str:
        if timezone and not schedules.is_zone(timezone):
            raise wrong(f"{shown(timezone)} {schedules.NO_ZONE}")
        return timezone

    @model_validator(mode="after")
    def _takes_time(self) -> "Provisioned":
        if five_fields(self.start) == five_fields(self.end):
            raise wrong(f"start and end are both {shown(self.start)}: such a time is over when it begins")
        return self


class ScaleOn(BaseModel):
    model_config = STRICT

    metric: str
    target: Annotated[float, Field(ge=0.001, le=1e12, allow_inf_nan=False)]

    @field_validator("metric")
    @classmethod
    def _metric(cls, metric: str) -> str:
        prefix = subjects.metric("")
        if metric.startswith(prefix):
            raise wrong(f"{shown(metric)} says {prefix} twice: write {shown(metric.removeprefix(prefix))}")
        if not patterns.is_plain(metric):
            raise wrong(
                f"{shown(metric)} is no metric: {', '.join(OWN_METRICS)}, or what is published to {prefix}<name>"
            )
        if metric not in OWN_METRICS and (near := get_close_matches(metric, OWN_METRICS, n=1, cutoff=0.7)):
            raise wrong(f"{shown(metric)} is too much like {near[0]}: write that, or call your own metric otherwise")
        return metric

    @model_validator(mode="after")
    def _percentage(self) -> "ScaleOn":
        if self.metric in PERCENTAGES and self.target > 100:
            raise wrong(f"target {self.target:g} is above 100, and {self.metric} is in percent")
        return self


class Scaling(BaseModel):
    """Every field's default is the one of `VersionSpec`."""

    model_config = STRICT

    concurrency: Annotated[int, Field(ge=1, le=1000)] = 1
    min_instances: Annotated[int, Field(ge=0, le=INSTANCES_LIMIT)] = 0
    max_instances: Annotated[int, Field(ge=1, le=INSTANCES_LIMIT)] = 100
    keep_alive: float | Literal["auto"] = "auto"
    pre_warm: bool = True
    reserved: Annotated[int, Field(ge=0, le=INSTANCES_LIMIT)] = 0
    weight: Annotated[float, Field(ge=0.01, le=1000, allow_inf_nan=False)] = 1.0
    provisioned: Annotated[list[Provisioned], Field(max_length=20)] = []
    scale_on: Annotated[list[ScaleOn], Field(max_length=10)] = []
    node_labels: Annotated[dict[str, str], Field(max_length=LABELS_LIMIT)] = {}
    rate_limit: Rate = 0.0
    caller_rate_limit: Rate = 0.0
    max_queue: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    activation: Literal["balanced", "eager"] = "balanced"

    @field_validator("keep_alive", mode="wrap")
    @classmethod
    def _keep_alive(cls, given: Any, validate: ValidatorFunctionWrapHandler) -> float | str:
        """One sentence for both kinds of value; pydantic has one for each."""
        try:
            found: float | str = validate(given)
        except ValidationError:
            raise wrong(f"{shown(given)} {_KEEP_ALIVE_RULE}") from None
        if found != "auto" and not 0 <= float(found) <= KEEP_ALIVE_LIMIT_S:
            raise wrong(f"{shown(given)} {_KEEP_ALIVE_RULE}")
        return found

    @field_validator("node_labels")
    @classmethod
    def _labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for text in (*labels, *labels.values()):
            if not names.LABEL.fullmatch(text):
                raise wrong(f"{shown(text)} is no label's name or value: {names.LABEL_RULE}")
        return labels

    @model_validator(mode="after")
    def _agree(self) -> "Scaling":
        if problems := [*_above_the_ceiling(self), *_out_of_reach(self)]:
            raise wrong("; ".join(problems))
        return self


def _above_the_ceiling(given: Scaling) -> Iterator[str]:
    floors = {"min_instances": given.min_instances, "reserved": given.reserved}
    floors |= {f"provisioned[{index}].instances": each.instances for index, each in enumerate(given.provisioned)}
    for field, floor in floors.items():
        if floor > given.max_instances:
            yield f"{field}: {floor} is above max_instances, which is {given.max_instances}"


def _out_of_reach(given: Scaling) -> Iterator[str]:
    if 0 < given.rate_limit < given.caller_rate_limit:
        yield f"caller_rate_limit: {given.caller_rate_limit:g} is above rate_limit, which is {given.rate_limit:g}"
    seen: set[str] = set()
    for index, each in enumerate(given.scale_on):
        if each.metric in seen:
            yield f"scale_on[{index}].metric: {each.metric} is there twice: leave one of them out"
        seen.add(each.metric)
        if each.metric == CONCURRENCY and each.target > given.concurrency:
            yield (
                f"scale_on[{index}].target: {each.target:g} is more than the calls that an instance takes at once:"
                f" concurrency is {given.concurrency}"
            )
