"""`make soak`: two minutes of warm load. Memory and CPU per call must stay flat in every process, nats-server too."""

import argparse
import sys
import time

import uvloop

import warm
from load import lean_call, lean_client, offer
from system import System, running


async def soak(system: System, seconds: float, windows: int) -> None:
    system.deploy("bench-warm", warm.SOURCE, max_instances=warm.INSTANCES, activation="eager", timeout=30)
    bus = await lean_client(system)
    call = lean_call(bus)
    try:
        await offer(call, warm.FUNCTION, calls=20_000, concurrency=64)
        for number in range(windows):
            before, calls, deadline = system.cpu_s(), 0, time.monotonic() + seconds / windows
            while time.monotonic() < deadline:
                calls += (await offer(call, warm.FUNCTION, calls=6_400, concurrency=64)).calls
            after, resident = system.cpu_s(), system.resident_mb()
            cost = "  ".join(f"{name} {(after[name] - before[name]) / calls * 1e6:.1f}" for name in after)
            memory = "  ".join(f"{name} {mb:.0f}" for name, mb in resident.items())
            print(f"window {number + 1}: {calls} calls | µs a call: {cost} | MB: {memory}", flush=True)
    finally:
        await bus.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--windows", type=int, default=6)
    options = parser.parse_args()
    with running() as system:
        uvloop.run(soak(system, options.seconds, options.windows))


if __name__ == "__main__":
    sys.exit(main())
