"""Settings: every limit is kept, and every refusal names the field, its value and what would be right."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto.records import Batch, Package, Provisioned, Retries, ScaleOn, Trigger, VersionSpec
from mayfly_registry import manifest
from mayfly_registry.allowed import Allowed
from mayfly_registry.errors import InvalidManifest

WORK: dict[str, Any] = {"start": "0 8 * * *", "end": "0 18 * * *", "instances": 2}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"memory": 5}, "memory: 5 is too small: at least 16 (MB)"),
    ({"memory": 10_241}, "memory: 10241 is too large: at most 10240 (MB)"),
    ({"memory": "128"}, 'memory: "128" must be a whole number'),
    ({"memory": 128.5}, "memory: 128.5 must be a whole number"),
    ({"memory": True}, "memory: true must be a whole number"),
    ({"timeout": 0}, "timeout: 0 is too small: at least 0.001 (s)"),
    ({"timeout": 901}, "timeout: 901 is too large: at most 900 (s)"),
    ({"timeout": float("nan")}, "timeout: NaN must be a finite number"),
    ({"concurrency": 0}, "concurrency: 0 is too small: at least 1"),
    ({"keep_alive": -1}, 'keep_alive: -1 must be "auto" or a number of seconds from 0 to 3600'),
    ({"keep_alive": "for ever"}, 'keep_alive: "for ever" must be "auto" or a number of seconds from 0 to 3600'),
    ({"keep_alive": float("inf")}, 'keep_alive: Infinity must be "auto" or a number'),
    ({"keep_alive": True}, 'keep_alive: true must be "auto" or a number'),
    ({"pre_warm": "no"}, 'pre_warm: "no" must be true or false'),
    ({"max_instances": 1001}, "max_instances: 1001 is too large: at most 1000"),
    ({"min_instances": 3, "max_instances": 2}, "min_instances: 3 is above max_instances, which is 2"),
    ({"min_instances": 1.5}, "min_instances: 1.5 must be a whole number"),
    ({"reserved": -1}, "reserved: -1 is too small: at least 0"),
    ({"reserved": 3, "max_instances": 2}, "reserved: 3 is above max_instances, which is 2"),
    ({"weight": 0}, "weight: 0 is too small: at least 0.01"),
    ({"weight": 1001}, "weight: 1001 is too large: at most 1000"),
    ({"provisioned": [{"end": "0 18 * * *", "instances": 1}]}, "provisioned[0].start: is missing"),
    ({"provisioned": [WORK | {"instances": 0}]}, "provisioned[0].instances: 0 is too small: at least 1"),
    (
        {"provisioned": [WORK | {"start": "8 o'clock"}]},
        'provisioned[0].start: "8 o\'clock" has 2 fields: five are minute',
    ),
    ({"provisioned": [WORK | {"end": "0 25 * * *"}]}, 'provisioned[0].end: "0 25 * * *" is no schedule'),
    (
        {"provisioned": [WORK | {"start": "@every 1h"}]},
        'provisioned[0].start: "@every 1h" is an interval: name a time, as 0 8 * * MON-FRI',
    ),
    ({"provisioned": [WORK | {"timezone": "Mars"}]}, 'provisioned[0].timezone: "Mars" is no time zone: its IANA name'),
    (
        {"provisioned": [WORK | {"end": "0  8 * * *"}]},
        'provisioned[0]: start and end are both "0 8 * * *": such a time is over when it begins',
    ),
    (
        {"provisioned": [WORK | {"start": "@daily", "end": "0 0 * * *"}]},
        'provisioned[0]: start and end are both "@daily": such a time is over when it begins',
    ),
    ({"provisioned": [WORK | {"zone": "UTC"}]}, "provisioned[0].zone: no such setting"),
    (
        {"provisioned": [WORK, WORK | {"instances": 9}], "max_instances": 8},
        "provisioned[1].instances: 9 is above max_instances, which is 8",
    ),
    ({"scale_on": [{"metric": "cpu"}]}, "scale_on[0].target: is missing"),
    ({"scale_on": [{"metric": "cpu", "target": 0}]}, "scale_on[0].target: 0 is too small: at least 0.001"),
    ({"scale_on": [{"metric": "cpu", "target": 101}]}, "scale_on[0]: target 101 is above 100, and cpu is in percent"),
    ({"scale_on": [{"metric": "memroy", "target": 1}]}, 'scale_on[0].metric: "memroy" is too much like memory'),
    (
        {"scale_on": [{"metric": "a b", "target": 1}]},
        'scale_on[0].metric: "a b" is no metric: concurrency, cpu, memory',
    ),
    (
        {"scale_on": [{"metric": "metric.jobs", "target": 1}]},
        'scale_on[0].metric: "metric.jobs" says metric. twice: write "jobs"',
    ),
    (
        {"scale_on": [{"metric": "jobs", "target": 1}, {"metric": "jobs", "target": 2}]},
        "scale_on[1].metric: jobs is there twice: leave one of them out",
    ),
    (
        {"scale_on": [{"metric": "concurrency", "target": 5}], "concurrency": 4},
        "scale_on[0].target: 5 is more than the calls that an instance takes at once: concurrency is 4",
    ),
    ({"node_labels": {"gpu": True}}, "node_labels.gpu: true must be a string (in quotes)"),
    ({"node_labels": {"gpu": "a,b"}}, 'node_labels: "a,b" is no label\'s name or value: letters, digits and ./_-'),
    ({"node_labels": {"": "yes"}}, 'node_labels: "" is no label\'s name or value'),
    ({"rate_limit": -1}, "rate_limit: -1 is too small: at least 0"),
    ({"rate_limit": "many"}, 'rate_limit: "many" must be a number'),
    ({"caller_rate_limit": 1_000_001}, "caller_rate_limit: 1000001 is too large: at most 1000000"),
    ({"rate_limit": 10, "caller_rate_limit": 20}, "caller_rate_limit: 20 is above rate_limit, which is 10"),
    ({"max_queue": 0}, "max_queue: 0 is too small: at least 1"),
    ({"idempotent": "yes"}, 'idempotent: "yes" must be true or false'),
    ({"handler": "main.handler"}, 'handler: "main.handler" must be module:function, for example main:handler'),
    ({"handler": "main:class"}, 'handler: "main:class" must be module:function, for example main:handler'),
    ({"handler": "../evil:run"}, 'handler: "../evil:run" must be module:function, for example main:handler'),
    ({"runtime": "cobol"}, "runtime: \"cobol\" is not given by this platform: must be 'python'"),
    ({"isolation": "vault"}, "isolation: \"vault\" is not given by this platform: must be 'process'"),
    ({"payload": "xml"}, "payload: \"xml\" is not given by this platform: must be 'auto', 'json', 'text' or 'bytes'"),
    ({"memroy": 64}, "memroy: no such setting: did you mean memory?"),
    ({"memroy": None}, "memroy: no such setting: did you mean memory?"),
    ({"env": {"MAYFLY_X": "1"}}, "env: MAYFLY_X is reserved: names must not start with MAYFLY_ or AWS_LAMBDA_"),
    ({"env": {"2X": "1"}}, 'env: "2X" is no variable\'s name: letters, digits and _, not a digit first'),
    ({"env": {"X": 8080}}, "env.X: this value must be a string (in quotes)"),
    ({"env": {"X": "a\0b"}}, "env: the value of X holds a NUL character"),
    ({"env": {"X": "x" * 32_768}}, "env: 32769 bytes, names and values together: at most 32768"),
    ({"connect": [0]}, "connect[0]: 0 is too small: at least 1"),
    ({"connect": [4222]}, "connect: 4222 is the platform's own port: functions are kept out of it"),
    (
        {"triggers": [{"queue": "q"}]},
        'triggers[0]: "queue" is no kind of trigger: one of http, event, schedule, object, subject, as in { event =',
    ),
    ({"retries": {"attempts": 0}}, "retries.attempts: 0 is too small: at least 1"),
    ({"retries": {"backoff": 0.01}}, "retries.backoff: 0.01 is too small: at least 0.1 (s)"),
    ({"retries": {"max_age": 2_592_001}}, "retries.max_age: 2592001 is too large: at most 2592000 (s)"),
    ({"retries": {"backoff": 9, "max_backoff": 3}}, "retries: max_backoff 3 is below backoff, which is 9"),
    ({"retries": {"atempts": 3}}, "retries.atempts: no such setting: did you mean attempts?"),
    ({"batch": {"size": 0}}, "batch.size: 0 is too small: at least 1"),
    ({"batch": {}, "ordered": "subject.3"}, "batch: does not go with ordered"),
    (
        {"ordered": "subject.0"},
        'ordered: "subject.0" must be a token of the subject, as subject.3, or a header\'s name',
    ),
    ({"ordered": "my key"}, 'ordered: "my key" must be a token of the subject'),
    ({"on_success": "event.done.*"}, 'on_success: "event.done.*" is no subject to publish to: words joined by dots'),
    ({"on_success": "metric.x"}, 'on_success: "metric.x" may not be published to by functions here'),
    ({"on_failure": "alerts.x"}, 'on_failure: "alerts.x" may not be published to by functions here: whoever runs the'),
    ({"publish": ["event..x"]}, 'publish: "event..x" is no subject: words joined by dots, * for one'),
    (
        {"publish": [">"]},
        'publish: ">" may not be published to by functions here: whoever runs the platform can add it',
    ),
    ({"call": ["Billing"]}, 'call: "Billing" names no functions'),
    ({"kv": ["carts"]}, 'kv: "carts" may not be used by functions here: whoever runs the platform can add it to kv_b'),
    ({"objects": ["uploads"]}, 'objects: "uploads" may not be used by functions here'),
    ({"idempotency_ttl": 0}, "idempotency_ttl: 0 is too small: at least 1 (s)"),
    ({"triggers": [{"http": "orders"}]}, 'triggers[0].http: "orders" must start with /, for example /orders/{id}'),
    ({"triggers": [{"http": "/a/{b"}]}, "triggers[0].http: \"/a/{b\" segment '{b' must be a plain word or one"),
    ({"triggers": [{"http": "/api/x"}]}, 'triggers[0].http: "/api/x" /api belongs to the platform'),
    (
        {"triggers": [{"http": "/a", "methods": ["FETCH"]}]},
        'triggers[0].methods: "FETCH" is no HTTP method: one of GET',
    ),
    (
        {"triggers": [{"http": "/a"}, {"http": "/a", "methods": ["GET"]}]},
        "triggers: /a and GET /a take the same requests",
    ),
    ({"triggers": ["/a"]}, 'triggers[0]: "/a" must be a table'),
    ({"description": "two\nlines"}, "description: must be one line of text, without control characters"),
]


@pytest.mark.parametrize(("settings", "sentence"), REFUSED, ids=[sentence[:40] for _, sentence in REFUSED])
def test_a_wrong_setting_is_not_explained(settings: dict[str, Any], sentence: str) -> None:
    """The message is a sentence a user can act on, without looking anything up."""
    with pytest.raises(InvalidManifest) as refused:
        manifest.check(settings, Allowed(frozenset({4222})))
    (problem,) = refused.value.problems
    assert problem.startswith(sentence)


def test_only_the_first_of_several_problems_is_reported() -> None:
    """All that is wrong comes in one answer: one deploy to find out, not five."""
    with pytest.raises(InvalidManifest) as refused:
        manifest.check({"memory": 1, "timeout": "3", "colour": "red", "triggers": [{"http": "x"}, {"queue": "q"}]})
    fields = [problem.partition(":")[0] for problem in refused.value.problems]
    assert sorted(fields) == ["colour", "memory", "timeout", "triggers[0].http", "triggers[1]"]


def test_only_one_of_two_limits_that_disagree_is_reported() -> None:
    """What fields say together is reported together, too."""
    floors = {"min_instances": 5, "reserved": 6, "provisioned": [WORK | {"instances": 7}], "max_instances": 4}
    with pytest.raises(InvalidManifest) as refused:
        manifest.check(floors)
    for field in ("min_instances: 5", "reserved: 6", "provisioned[0].instances: 7"):
        assert f"{field} is above max_instances, which is 4" in str(refused.value)


def test_a_metric_needs_a_grant() -> None:
    """A function may tell the scaler a number without access.toml; patterns that reach further need it."""
    assert manifest.check({"publish": ["metric.jobs", "metric.>"]}).publish == ["metric.>", "metric.jobs"]
    for pattern in (">", "*.jobs"):
        with pytest.raises(InvalidManifest, match="may not be published to"):
            manifest.check({"publish": [pattern]})


@pytest.mark.parametrize("keep_alive", ["auto", 0, 90, 0.5, 3600])
def test_a_keep_alive_that_is_right_is_refused(keep_alive: float | str) -> None:
    """Learned, or so many seconds."""
    assert manifest.check({"keep_alive": keep_alive}).keep_alive == keep_alive


def test_a_secret_in_env_is_repeated_in_the_message() -> None:
    """Values of environment variables may be secrets: no message holds one."""
    with pytest.raises(InvalidManifest) as refused:
        manifest.check({"env": {"KEY": ["s3cret"], "MAYFLY_TOKEN": "s3cret"}})
    assert "s3cret" not in str(refused.value)


def test_a_null_is_not_the_default() -> None:
    """`configure` sets a setting back with null."""
    assert manifest.check({"memory": None}).memory == 128


def test_defaults_of_manifest_and_record_drift_apart() -> None:
    """An empty manifest means what an empty record means."""
    package = Package(sha256="", size=0, format="py", filename="a.py")
    spec = VersionSpec(name="a", version=1, runtime="python", handler="a:b", package=package, created="")
    assert manifest.check(manifest.of_version(spec)) == manifest.check({"handler": "a:b"})


def test_settings_do_not_survive_a_version() -> None:
    """What `configure` starts from is what was deployed."""
    settings = {
        "handler": "m:h",
        "memory": 256,
        "timeout": 0.5,
        "env": {"A": "b"},
        "connect": [5432],
        "triggers": [{"http": "/a/{b}", "methods": ["get", "PUT"]}, {"schedule": "@every  5s", "payload": {"a": [1]}}],
        "retries": {"attempts": 5, "backoff": 2},
        "batch": {"size": 7},
        "on_success": "event.done",
        "call": ["b.*"],
        "keep_alive": 30,
        "provisioned": [WORK | {"start": "0  8 * * *", "timezone": "Europe/Amsterdam"}],
        "scale_on": [{"metric": "jobs.waiting", "target": 5}],
        "node_labels": {"gpu": "yes"},
        "rate_limit": 0.5,
    }
    checked = manifest.check(settings)
    package = Package(sha256="", size=0, format="py", filename="a.py")
    spec = VersionSpec(
        name="a",
        version=1,
        runtime="python",
        handler="m:h",
        package=package,
        created="",
        memory_mb=256,
        timeout_s=0.5,
        env={"A": "b"},
        connect=[5432],
        triggers=[
            Trigger(http="/a/{b}", methods=["GET", "PUT"]),
            Trigger(schedule="@every 5s", payload={"a": [1]}, number=3),
        ],
        retries=Retries(attempts=5, backoff_s=2),
        batch=Batch(size=7),
        on_success="event.done",
        call=["b.*"],
        keep_alive_s=30.0,
        provisioned=[Provisioned(start="0 8 * * *", end="0 18 * * *", instances=2, timezone="Europe/Amsterdam")],
        scale_on=[ScaleOn(metric="jobs.waiting", target=5.0)],
        node_labels={"gpu": "yes"},
        rate_limit=0.5,
    )
    assert manifest.check(manifest.of_version(spec)) == checked


def test_dotted_names_have_no_table() -> None:
    """``[functions.billing.charge]`` and ``[functions."billing.charge"]`` both describe billing.charge."""
    plain = manifest.read("[functions.billing.charge]\nmemory = 64", "billing.charge")
    quoted = manifest.read('[functions."billing.charge"]\nmemory = 64', "billing.charge")
    assert plain == quoted == {"memory": 64}


@pytest.mark.parametrize("text", ["functions = 1", "[functions]\nhello = 3", "", "a = ", "[functions.other]"])
def test_a_manifest_without_the_function_is_taken_as_empty(text: str) -> None:
    """A mayfly.toml that does not describe the function is an error, not the defaults."""
    with pytest.raises(InvalidManifest, match=r"mayfly\.toml: "):
        manifest.read(text, "hello")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(list(manifest.Settings.model_fields)) | st.text(max_size=5), anything, max_size=6)
)
def test_some_input_is_answered_by_another_error(settings: dict[str, Any]) -> None:
    """Whatever comes in, it is either settings or a list of sentences."""
    try:
        manifest.check(settings)
    except InvalidManifest as refused:
        assert refused.problems
        assert all(isinstance(problem, str) and problem for problem in refused.problems)
