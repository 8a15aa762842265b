"""What scaling must never break, sentence by sentence; a test that guards one says so with ``@pytest.mark.invariant``.

P: property of a pure function. S: of a model under random steps. I: on a real NATS server.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]

INVARIANTS = {
    # starting instances
    "P1": "an order is never below 0, and ready, starting and ordered together never exceed max_instances",
    "P2": "who asks again at once orders nothing",
    "P3": "no more is ordered than there are waiting calls for; nothing when free slots cover them",
    "P4": "more waiting calls never order less, more instances under way never more",
    "P5": "at most 32, or as many as are ready, start at a time",
    "P6": "once the oldest call has waited for a cold start, a start is under way or the limit is reached",
    "S7": "with room and without failures every call is covered by a start within a few cold starts",
    "S8": "1,000 first calls at once start no more than the rule's figures",
    "I9": "two routers never exceed max_instances together while a function changes hands",
    "S10": "after five failed starts one is tried at a time, at the pace of the back-off",
    # reclaiming them
    "P11": "reclaimed is only who is idle for its window, never below what is held",
    "S12": "a call is never given to an instance that was told to stop, and none is lost in one",
    "P13": "a keep-alive window stays in its bounds, grows with the cold start, shrinks with memory",
    "S14": "without calls instances go to the minimum and stay there: nothing wakes itself",
    "S15": "an instance is reclaimed at most once for each window",
    # nodes
    "P16": "a constant load settles: after one window no node is added or drained, and there are enough, not one more",
    "P17": "a step of load is followed by one decision within a tick, a boot and a tick",
    "P18": "there are never fewer nodes than the minimum, nor more than the maximum",
    "P19": "no drain leaves the peak above what the rest can take",
    "S20": "a node that drains is taken back before another is added",
    "S21": "nodes are not added and drained within the cool-down",
    "I22": "a provider that fails is left alone for longer and longer; nothing is drained or made twice meanwhile",
    # drains
    "S23": "every accepted call ends once, by a result or a said error, under drains, crashes and kills",
    "S24": "a draining node gets no new instance, and what is held there stands elsewhere before it stops",
    "I25": "a worker killed with -9 in a call is noticed within ten seconds",
    # placement
    "P26": "an instance goes where it fits, to the lowest rank below the fill, above it only as a last resort",
    "S27": "what a node has accepted never exceeds its memory, whoever asks it at once",
    # when there is not enough
    "P28": "shares add up to what there is, exceed nobody's demand, honour what is reserved, and level the rest",
    "S29": "no running call is ended for another's sake",
    "S30": "a function within its share waits for one slot and a cold start at most, whatever the others do",
    "P31": "429 exactly when the predicted wait is too long, the queue full or the rate exceeded, and with Retry-After",
    # the whole
    "I32": "without a scaler calls are served on, within their limits",
    "I33": "when a fifth of the reports is lost no node is drained for it",
    "I34": "a clock that jumps changes no decision: each uses one process's monotonic clock, reports carry ages",
}


def test_every_invariant_has_its_test() -> None:
    """Each is claimed by a test, and none is claimed that is not in the list."""
    claimed = {identity for file in TESTS.rglob("test_*.py") for identity in _claimed(file)}
    assert claimed == set(INVARIANTS)


def _claimed(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.invariant":
                    yield from (str(ast.literal_eval(argument)) for argument in mark.args)
