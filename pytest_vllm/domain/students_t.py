"""Student's t distribution, which the standard library lacks."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_TINY = 1e-300
_CLOSE = 1e-14
_CLOSE_STEP = 1e-10
_MOST_STEPS = 500


def t_upper_tail(t: float, freedom: float) -> float:
    """Return the probability that Student's t with so many degrees of freedom is above `t` >= 0."""
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2


@lru_cache(maxsize=4096)
def t_quantile(alpha: float, freedom: float) -> float:
    """Return the t that is exceeded with probability `alpha` (below one half).

    Newton's method from the normal quantile, which lies below: the tail is convex, so it climbs.
    """
    t = NormalDist().inv_cdf(1 - alpha)
    for _ in range(_MOST_STEPS):
        step = (t_upper_tail(t, freedom) - alpha) / _density(t, freedom)
        t += step
        if abs(step) < _CLOSE_STEP * t:
            break
    return t


def _density(t: float, freedom: float) -> float:
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    tail = (freedom + 1) / 2 * math.log1p(t * t / freedom)
    return math.exp(scale - tail) / math.sqrt(freedom * math.pi)


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularized incomplete beta function (DLMF 8.17.22, by Lentz's method)."""
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    return front * (_fraction(a, b, x) - 1) / a


def _fraction(a: float, b: float, x: float) -> float:
    value, upper, lower = 1.0, 1.0, 0.0
    for step in range(_MOST_STEPS):
        m = step // 2
        if not step:
            term = 1.0
        elif step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        lower = 1 / (1 + term * lower or _TINY)
        upper = 1 + term / upper or _TINY
        value *= upper * lower
        if abs(1 - upper * lower) < _CLOSE:
            break
    return value
