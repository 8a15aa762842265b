"""What the machine itself can do: ``python -m scale.forks COUNT`` has so many children that sleep, forked by a process
that does nothing else, and prints the seconds until the last of them has said that it runs, and the processor seconds.
"""

import json
import os
import signal
import sys
import time


def main(count: int) -> None:
    said, says = os.pipe()
    began = time.perf_counter()
    children = []
    for _ in range(count):
        child = os.fork()
        if not child:
            os.write(says, b".")
            signal.pause()
        children.append(child)
    heard = 0
    while heard < count:
        heard += len(os.read(said, count))
    took_s = time.perf_counter() - began
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    used = os.times()
    json.dump(
        {"seconds": took_s, "cpu_s": used.user + used.system + used.children_user + used.children_system}, sys.stdout
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
