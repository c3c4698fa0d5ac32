"""The training methods, one a file, each from its paper.

A new method is a file with two functions, or one, and a line here.
"""

from dsrs_jax.train.methods import catrs, consistency, gaussian, macer, smoothadv, smoothmix
from dsrs_jax.train.methods.method import Batch, LogitsOf, Method, Objective, Views

__all__ = ["METHODS", "Batch", "LogitsOf", "Method", "Objective", "Views"]

METHODS: dict[str, Method] = {
    "gaussian": gaussian.METHOD,
    "smoothadv": smoothadv.METHOD,
    "consistency": consistency.METHOD,
    "smoothmix": smoothmix.METHOD,
    "macer": macer.METHOD,
    "catrs": catrs.METHOD,
}
