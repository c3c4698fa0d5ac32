"""Which quantile to truncate Q at, given P's lower bound (the rules of Li et al., ICML 2022)."""

from __future__ import annotations

import math

from dsrs_jax.system.errors import UserError

RULES = ("x", "x+", "x2", "x2+")
_SMALLEST, _LARGEST = 1e-3, 1.0 - 1e-6


def threshold(rule: str, lower: float) -> float:
    """The quantile in (0, 1) at which to truncate Q.

    A number stands for itself. With p the lower bound of P's probability:
    `x`: 0.08 (-ln(1 - p) - 5) + 0.6 if p >= 1/2, else 1/2; `x2`: max(p - 0.1, 0.4).
    `x+` and `x2+` choose as `x` and `x2` do; see `pools`.

    Raises:
        UserError: neither a rule nor a number in (0, 1).
    """
    if rule in ("x", "x+"):
        value = 0.08 * (-math.log(1.0 - lower) - 5.0) + 0.6 if lower >= 0.5 else 0.5
    elif rule in ("x2", "x2+"):
        value = max(lower - 0.1, 0.4)
    else:
        try:
            value = float(rule)
        except ValueError:
            value = math.nan
        if not 0.0 < value < 1.0:
            raise UserError(
                f"a threshold is a number in (0, 1) or one of {', '.join(RULES)}, got {rule!r}"
            )
        return value
    return min(max(value, _SMALLEST), _LARGEST)


def pools(rule: str) -> bool:
    """Whether an image whose P draws were all right draws from P again, and pools, instead of Q."""
    return rule.endswith("+")
