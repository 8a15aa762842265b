"""How many instances a measured figure asks for, by the rules of the Kubernetes HPA (autoscaling/v2).

The figure over its target, times what is ready, rounded up; nothing within `TOLERANCE` of the target; instances that
were not measured are taken to be at the target when the answer is fewer and at nothing when it is more, and if that
turns the answer around, nothing is changed. The largest of several proposals counts, and a smaller one only after
`STABLE_S` (see `peak`).

Left out: the limit on growth (4 instances or 100 % in 15 s). It protects clusters whose starts are expensive; here
calls start instances without asking, and the limit would only let them wait.
"""

from math import ceil
from typing import NamedTuple

TOLERANCE = 0.1
STABLE_S = 300.0
_ROUNDING = 1e-9
_MOST = 1_000_000  # instances: anybody may publish any figure


class Measured(NamedTuple):
    """Of a figure that each instance has, as cpu."""

    total: float  # over those measured
    instances: int  # measured


def by_total(total: float, ready: int, target: float) -> int:
    """Of a figure that the instances share among them: calls in flight, jobs waiting somewhere."""
    if ready and abs(1 - total / (target * ready)) <= TOLERANCE:
        return ready
    return _rounded_up(total / target)


def by_instance(measured: Measured, ready: int, target: float) -> int | None:
    """Of a figure that is measured at each instance; None when it was measured at none."""
    if measured.instances <= 0 or ready <= 0:
        return None
    ratio = measured.total / measured.instances / target
    if abs(1 - ratio) <= TOLERANCE:
        return ready
    missing = max(0, ready - measured.instances)
    if not missing:
        return _rounded_up(ratio * ready)
    assumed = measured.total + (missing * target if ratio < 1 else 0.0)
    corrected = assumed / (measured.instances + missing) / target
    wanted = _rounded_up(corrected * ready)
    turned = (corrected - 1) * (ratio - 1) <= 0 or (wanted - ready) * (ratio - 1) < 0
    return ready if abs(1 - corrected) <= TOLERANCE or turned else wanted


def _rounded_up(instances: float) -> int:
    return ceil(min(max(instances, 0.0), _MOST) - _ROUNDING)
