"""One example of everything that Mayfly puts on the wire, each field with a value of its own."""

import msgspec

from mayfly_proto import api, errors, messages, records

MESSAGES: list[msgspec.Struct] = [
    messages.Invoke(
        seq=7,
        router="r1",
        epoch=3,
        function="billing.charge",
        version=2,
        invocation="0K8M2Q",
        reply="_INBOX.a.1",
        budget_ms=13_000,
        attempt=2,
    ),
    messages.Done(node="n1", node_epoch=5, last_seq=9, done=[7, 8], refused=[(9, messages.Refusal.BUSY)]),
    messages.Activate(
        router="r1",
        epoch=3,
        function="billing.charge",
        version=2,
        instances=["i1", "i2"],
        memory_mb=128,
        budget_ms=12_000,
    ),
    messages.Activated(placed={"i1": "n1"}, reason=messages.Refusal.NO_ROOM),
    messages.Start(router="r1", epoch=3, function="billing.charge", version=2, instances=["i1", "i2"], memory_mb=128),
    messages.Started(accepted=["i1"], reason=messages.Refusal.SLOTS),
    messages.Failed(
        node="n1",
        node_epoch=5,
        function="billing.charge",
        version=2,
        instance="i1",
        kind="init_failed",
        message="No module named 'stripe'",
        traceback="Traceback (most recent call last): ...",
    ),
    messages.Stop(router="r1", epoch=3, function="billing.charge", version=1, count=4),
    messages.Hold(router="r1", epoch=3, function="billing.charge", version=2, count=1),
    messages.Adopt(router="r1", epoch=4, members=["r1", "r2"]),
    messages.InstanceView(function="billing.charge", version=2, instance="i1", state="busy"),
    messages.CallView(
        seq=-1, function="billing.charge", version=2, invocation="0K8M2Q", reply="_INBOX.a.1", budget_ms=900
    ),
    messages.Adopted(
        node="n1",
        node_epoch=5,
        last_seq=9,
        instances=[messages.InstanceView(function="billing.charge", version=2, instance="i1", state="idle")],
        calls=[
            messages.CallView(
                seq=8, function="billing.charge", version=2, invocation="0K8M2Q", reply="_INBOX.a.1", budget_ms=900
            )
        ],
    ),
    messages.Handover(
        function="billing.charge",
        version=2,
        invocation="0K8M2Q",
        reply="_INBOX.a.1",
        budget_ms=12_000,
        attempt=2,
        epoch=4,
    ),
]

_PACKAGE = records.Package(sha256="9f86d081884c7d65", size=512, format="zip", filename="billing.zip")
_TRIGGER = records.HttpTrigger(http="/orders/{id}", methods=["GET"])
_CLIENT = records.Client(server="NCGTF32G", id=12)
_LOAD = records.VersionLoad(ready=3, busy=2, starting=1)
_SEEN = records.RouterSeen(last_seq=9, calls=[7, 9])
_FUNCTION_LOAD = records.FunctionLoad(queued=1, in_flight=2, ready=3, starting=4, calls=5, cold=6, errors=7)

RECORDS: list[msgspec.Struct] = [
    _PACKAGE,
    _TRIGGER,
    records.VersionSpec(
        name="billing.charge",
        version=2,
        runtime="python",
        handler="billing:charge",
        package=_PACKAGE,
        created="2026-01-02T03:04:05Z",
        memory_mb=256,
        timeout_s=5.0,
        concurrency=2,
        min_instances=1,
        max_instances=9,
        keep_alive_s=60.0,
        max_queue=50,
        activation="eager",
        idempotent=True,
        isolation="sandbox",
        payload="json",
        env={"CURRENCY": "EUR"},
        connect=[5432],
        triggers=[_TRIGGER],
        description="Charges an order",
    ),
    records.FunctionRecord(name="billing.charge", current=2, versions=[2], older=[1]),
    records.Route(epoch=5, instances=["i1", "i2"], slots=4),
    _CLIENT,
    records.NodeLease(
        node="n1",
        epoch=5,
        client=_CLIENT,
        memory_mb=4096,
        cores=2,
        draining=True,
        isolation=["process"],
        notes=["no control groups"],
        started="2026-01-02T03:04:05Z",
        version="0.1.0",
    ),
    records.RouterMembers(epoch=3, members={"r1": _CLIENT}),
    _LOAD,
    _SEEN,
    records.NodeLoad(
        node="n1",
        epoch=5,
        seq=100,
        memory_mb=4096,
        memory_used_mb=384,
        cpu_percent=12.5,
        instances={"billing.charge": {"2": _LOAD}},
        routers={"r1": _SEEN},
    ),
    _FUNCTION_LOAD,
    records.RouterLoad(router="r1", epoch=3, functions={"billing.charge": _FUNCTION_LOAD}),
    records.InstanceRecord(
        instance="i1",
        function="billing.charge",
        version=2,
        node="n1",
        state="idle",
        pid=4711,
        calls=12,
        age_s=30.5,
        idle_s=1.5,
        memory_mb=5.5,
        cold_start_ms={"fork": 2.5, "total": 8.5},
    ),
    records.LogLine(
        time="2026-01-02T03:04:05Z",
        function="billing.charge",
        version=2,
        instance="i1",
        stream="stdout",
        line="charged",
        invocation="0K8M2Q",
    ),
    records.Usage(
        time="2026-01-02T03:04:05Z",
        function="billing.charge",
        version=2,
        instance="i1",
        node="n1",
        calls=12,
        busy_ms=40.5,
        alive_ms=90_000.5,
        memory_mb=256,
        cpu_ms=30.5,
    ),
]

_ENTRY = api.CodeEntry(path="billing.py", size=321)

API: list[msgspec.Struct] = [
    api.DeployRequest(
        name="billing.charge",
        source="def handler(event, context): ...",
        object="incoming/upload-1",
        filename="billing.py",
        settings={"memory": 256},
    ),
    api.ConfigureRequest(name="billing.charge", settings={"memory": 256, "timeout": None}),
    api.RollbackRequest(name="billing.charge", version=1),
    api.FunctionRequest(name="billing.charge", version=1),
    api.DeleteRequest(name="billing.charge"),
    api.DeployReply(
        name="billing.charge",
        version=2,
        handler="billing:charge",
        sha256="9f86d081884c7d65",
        size=512,
        created="2026-01-02T03:04:05Z",
        unchanged=True,
    ),
    api.FunctionSummary(
        name="billing.charge",
        version=2,
        runtime="python",
        handler="billing:charge",
        memory_mb=256,
        timeout_s=5.0,
        concurrency=2,
        min_instances=1,
        max_instances=9,
        keep_alive_s=60.0,
        triggers="GET /orders/{id}",
        size=512,
        created="2026-01-02T03:04:05Z",
        description="Charges an order",
    ),
    api.VersionSummary(
        name="billing.charge",
        version=2,
        current=True,
        callable=True,
        runtime="python",
        handler="billing:charge",
        memory_mb=256,
        timeout_s=5.0,
        sha256="9f86d081884c7d65",
        size=512,
        filename="billing.zip",
        created="2026-01-02T03:04:05Z",
    ),
    _ENTRY,
    api.FunctionDescription(
        name="billing.charge",
        version=2,
        runtime="python",
        handler="billing:charge",
        package=_PACKAGE,
        created="2026-01-02T03:04:05Z",
        current=2,
        versions=[1, 2],
        source="def handler(event, context): ...",
        entries=[_ENTRY],
        files=1,
    ),
    api.CodeReply(
        name="billing.charge",
        version=2,
        filename="billing.py",
        format="py",
        sha256="9f86d081884c7d65",
        size=5,
        bucket="code",
        object="9f86d081884c7d65",
        content=b"x = 1",
    ),
    api.DeleteReply(name="billing.charge", versions=2),
]

ERRORS: list[errors.CallError] = [
    errors.CallError(
        kind,
        f"what happened: {kind.value}",
        component="worker",
        invocation="0K8M2Q",
        traceback="Traceback (most recent call last): ...",
        retry_after_s=2,
    )
    for kind in errors.ErrorType
]
