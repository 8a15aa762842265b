"""Worker and runtime have a copy each of the instance socket's frames: these bytes keep both equal."""

import socket
import time

import pytest

from mayfly_proto import codec, headers, subjects
from mayfly_runtime import asks as runtime_asks
from mayfly_runtime import batch, cloudevents, message, wire
from mayfly_worker import asks as worker_asks
from mayfly_worker import instance_frames

GOLDEN = [
    (
        (wire.EVENT, (7, "inv", 3000, True, 1, b"NATS/1.0\r\n\r\n"), b"{}"),
        "01 19000000 02000000 96 07 a3696e76 cd0bb8 c3 01 c40c4e4154532f312e300d0a0d0a 7b7d",
    ),
    ((wire.READY, {"import": 0.5}, b""), "02 11000000 00000000 81 a6696d706f7274 cb3fe0000000000000"),
    ((wire.INIT_ERROR, ("no", "trace"), b""), "03 0a000000 00000000 92 a26e6f a57472616365"),
    ((wire.RESULT, (7, wire.TEXT, None), b"hello"), "04 04000000 05000000 93 07 01 c0 68656c6c6f"),
    ((wire.ERROR, (7, "bad_result", "no", ""), b""), "05 11000000 00000000 94 07 aa6261645f726573756c74 a26e6f a0"),
    ((wire.LOG, (wire.STDERR, "inv"), b"line\n"), "06 06000000 05000000 92 02 a3696e76 6c696e650a"),
    (
        (wire.ASK, (1, 7, "kv.get", ("carts", "ada")), b""),
        "08 15000000 00000000 94 01 07 a66b762e676574 92 a56361727473 a3616461",
    ),
    ((wire.ANSWER, (1, True, 3), b"{}"), "09 04000000 02000000 93 01 c3 03 7b7d"),
    ((wire.START, {"template": False}, b""), "07 0b000000 00000000 81 a874656d706c617465 c2"),
]


@pytest.mark.parametrize(("frame", "golden"), GOLDEN)
def test_frame_changed_unseen(frame: tuple[int, object, bytes], golden: str) -> None:
    """Both sides write the bytes that CONTRACT.md describes."""
    kind, meta, payload = frame
    assert wire.pack(kind, meta, payload).hex() == golden.replace(" ", "")
    assert codec.pack_instance(kind, meta, payload).hex() == golden.replace(" ", "")


def test_kinds_differ_between_copies() -> None:
    """The kinds have the same numbers on both sides."""
    names = ("EVENT", "READY", "INIT_ERROR", "RESULT", "ERROR", "LOG", "START", "ASK", "ANSWER")
    assert [getattr(wire, name) for name in names] == [getattr(instance_frames, name) for name in names]


def test_names_differ_between_copies() -> None:
    """Headers and limits that the runtime has a copy of."""
    assert message._SUBJECT == headers.EVENT_SUBJECT
    assert batch._BATCH.decode().strip() == f"{headers.BATCH}:"
    assert cloudevents._PREFIX == headers.CLOUD_EVENT
    assert (subjects.schedule("", "")[:-1], subjects.due("")) == cloudevents._SCHEDULES
    assert runtime_asks._OUTSTANDING == worker_asks.OUTSTANDING


def test_large_frame_in_pieces_is_gathered_again_and_again() -> None:
    """Both readers join a frame once, when it is whole: 32 MB in pieces of 64 KB take no seconds."""
    payload = bytes(32 << 20)
    whole = wire.pack(wire.ANSWER, (1, True, None), payload) + wire.pack(wire.EVENT, (2,), b"next")
    frames, channel = instance_frames.Frames(), wire.Channel(0)
    cut: list[tuple[int, int]] = []
    fed: list[tuple[int, int]] = []
    began = time.process_time()
    for start in range(0, len(whole), 1 << 16):
        piece = whole[start : start + (1 << 16)]
        cut += [(kind, len(body)) for kind, _, body in frames.feed(piece)]
        fed += [(kind, len(body)) for kind, _, body in channel.feed(piece)]
    assert cut == fed == [(wire.ANSWER, len(payload)), (wire.EVENT, 4)]
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize("cut", [1, 8, 9, 20, 32])
def test_frame_in_pieces_is_lost(cut: int) -> None:
    """Frames arrive in whatever pieces the socket makes of them, also two in one piece."""
    frames = wire.pack(wire.EVENT, (1,), b"first") + wire.pack(wire.EVENT, (2,), b"second")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = wire.Channel(theirs.fileno())
        ours.send(frames[:cut])
        received = channel.feed(theirs.recv(100))
        ours.send(frames[cut:])
        received += channel.feed(theirs.recv(100))
    assert received == [(wire.EVENT, [1], b"first"), (wire.EVENT, [2], b"second")]


def test_end_between_frames_blocks() -> None:
    """A closed socket ends the loop, whether or not half a frame came before."""
    for leftover in (b"", b"\x01\x02"):
        ours, theirs = socket.socketpair()
        with theirs:
            ours.send(wire.pack(wire.EVENT, (1,), b"x") + leftover)
            ours.close()
            channel = wire.Channel(theirs.fileno())
            assert channel.receive() == (wire.EVENT, [1], b"x")
            assert channel.receive() is None
