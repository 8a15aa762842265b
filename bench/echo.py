"""The raw side of the comparison: a stock nats-py responder that echoes. Prints a line when it is ready."""

import asyncio
import sys

import nats
import uvloop
from nats.aio.msg import Msg


async def respond(url: str, user: str, password: str) -> None:
    client = await nats.connect(url, user=user, password=password, name="bench-echo")

    async def echo(message: Msg) -> None:
        await client.publish(message.reply, message.data)

    await client.subscribe("bench.echo", queue="bench", cb=echo)
    await client.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(respond(sys.argv[1], *sys.stdin.readline().split()))
