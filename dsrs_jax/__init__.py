"""Certified radii of smoothed classifiers by double sampling (Li et al., ICML 2022), in JAX.

law = dsrs_jax.generalized_gaussian(dimension, sigma, k)
inside = law.truncated(0.8)
votes = dsrs_jax.count_votes(classifier, images, labels, law, 50_000, cutoffs=[inside.cutoff])
certificate = dsrs_jax.certify_votes(
    law, votes.right[:, -1], 50_000, [inside], [votes.right[:, 0]], [votes.draws[:, 0]],
    alpha=0.001,
)
certificate.radius

Names are imported when they are first used, so that `python -m dsrs_jax.certify.proof` runs
where JAX is not installed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsrs_jax.certify import Certificate, certify_votes, evaluate, interval, lower_bound
    from dsrs_jax.certify import certify as certify_bounds
    from dsrs_jax.errors import UserError
    from dsrs_jax.models import Classifier, load_model
    from dsrs_jax.noise import RadialLaw, gaussian, generalized_gaussian
    from dsrs_jax.sampling import Votes, count_votes

_HOMES = {
    "Certificate": "certify",
    "Classifier": "models",
    "RadialLaw": "noise",
    "UserError": "errors",
    "Votes": "sampling",
    "certify_bounds": "certify",
    "certify_votes": "certify",
    "count_votes": "sampling",
    "evaluate": "certify",
    "gaussian": "noise",
    "generalized_gaussian": "noise",
    "interval": "certify",
    "load_model": "models",
    "lower_bound": "certify",
}

__all__ = [
    "Certificate",
    "Classifier",
    "RadialLaw",
    "UserError",
    "Votes",
    "certify_bounds",
    "certify_votes",
    "count_votes",
    "evaluate",
    "gaussian",
    "generalized_gaussian",
    "interval",
    "load_model",
    "lower_bound",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    return getattr(home, "certify" if name == "certify_bounds" else name)
