"""Bounds from votes, the dual, and the radii that it proves. Numbers in, numbers out.

Names are imported when they are first used: `proof` must run where JAX is not installed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsrs_jax.certify.bounds import interval, lower_bound, recover_votes
    from dsrs_jax.certify.certificate import (
        Certificate,
        certify,
        certify_votes,
        evaluate,
        worst_case,
    )
    from dsrs_jax.certify.grid import last_on_grid

_HOMES = {
    "Certificate": "certificate",
    "certify": "certificate",
    "certify_votes": "certificate",
    "evaluate": "certificate",
    "interval": "bounds",
    "last_on_grid": "grid",
    "lower_bound": "bounds",
    "recover_votes": "bounds",
    "worst_case": "certificate",
}

__all__ = [
    "Certificate",
    "certify",
    "certify_votes",
    "evaluate",
    "interval",
    "last_on_grid",
    "lower_bound",
    "recover_votes",
    "worst_case",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
