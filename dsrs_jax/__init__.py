"""Certified radii of smoothed classifiers by double sampling (Li et al., ICML 2022), in JAX.

certificates = dsrs_jax.certify_images(model, images, labels, sigma=0.5)
certificates.radius

Names are imported when they are first used, so that `python -m dsrs_jax.proof` runs where JAX is
not installed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsrs_jax.bounds import Bound, Protocol, Search, interval, lower_bound
    from dsrs_jax.certify import Certificates, CertificateTable, certify_table, evaluate
    from dsrs_jax.certify import certify as certify_bounds
    from dsrs_jax.models import Classifier, load_model
    from dsrs_jax.noise import Law, RadialLaw, gaussian, generalized_gaussian
    from dsrs_jax.run.images import certify_images
    from dsrs_jax.system.devices import use_all_cores
    from dsrs_jax.system.errors import UserError
    from dsrs_jax.votes import VoteTable, count_votes

_HOMES = {
    "bounds": ("Bound", "Protocol", "Search", "interval", "lower_bound"),
    "certify": ("CertificateTable", "Certificates", "certify_bounds", "certify_table", "evaluate"),
    "models": ("Classifier", "load_model"),
    "noise": ("Law", "RadialLaw", "gaussian", "generalized_gaussian"),
    "run.images": ("certify_images",),
    "system.devices": ("use_all_cores",),
    "system.errors": ("UserError",),
    "votes": ("VoteTable", "count_votes"),
}

__all__ = [
    "Bound",
    "CertificateTable",
    "Certificates",
    "Classifier",
    "Law",
    "Protocol",
    "RadialLaw",
    "Search",
    "UserError",
    "VoteTable",
    "certify_bounds",
    "certify_images",
    "certify_table",
    "count_votes",
    "evaluate",
    "gaussian",
    "generalized_gaussian",
    "interval",
    "load_model",
    "lower_bound",
    "use_all_cores",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            # `dsrs_jax.certify` is the room: its function of that name needs another one here.
            own = "certify" if name == "certify_bounds" else name
            return getattr(importlib.import_module(f"{__name__}.{home}"), own)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
