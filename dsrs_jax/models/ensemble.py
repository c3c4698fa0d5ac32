"""Several classifiers as one: their answers averaged, draw by draw."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from dsrs_jax.models.interface import (
    BaseClassifier,
    Replica,
    compiled,
    digest_of,
    refuse_too_few_classes,
)
from dsrs_jax.system.errors import UserError

AVERAGES = ("softmax", "logits")


class Ensemble(BaseClassifier):
    """The average of several classifiers; a pytree where each of them is.

    Args:
        members: of one image shape and one number of classes.
        average: "softmax", the logarithm of the mean of their probabilities, or "logits", the mean
            of their logits.

    Raises:
        UserError: members that do not belong together or have one class, or an unknown average.
    """

    def __init__(self, members: Sequence[BaseClassifier], average: str = "softmax") -> None:
        if average not in AVERAGES:
            raise UserError(f"unknown average {average!r}; known: {', '.join(AVERAGES)}")
        self.members, self.average = tuple(members), average
        first = self.members[0].metadata
        refuse_too_few_classes(first.arch, first.classes)
        for other in self.members[1:]:
            found = other.metadata
            if (found.image_shape, found.classes) != (first.image_shape, first.classes):
                raise UserError(
                    f"{first.arch} takes images {first.image_shape} of {first.classes} classes, "
                    f"{found.arch} takes {found.image_shape} of {found.classes}: they make no "
                    "ensemble"
                )
        scalings = {one.metadata.scaling for one in self.members}
        self.metadata = dataclasses.replace(
            first,
            arch=f"{average} of " + ", ".join(one.metadata.arch for one in self.members),
            scaling=first.scaling if len(scalings) == 1 else "each its own",
            parameters=None,
            source=None,
            source_sha256=None,
        )
        self.traceable = all(one.traceable for one in self.members)
        self.backend = "+".join(one.backend for one in self.members)

    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "images classes"]:
        """The answers of all, averaged, as logits."""
        if self.traceable:
            return _averaged([one(images) for one in self.members], self.average)
        logits = [compiled(one, images) if one.traceable else one(images) for one in self.members]
        return _averaged_at_once(logits, self.average)

    def fingerprint(self) -> str:
        """Of the members' in their order, and of the average."""
        return digest_of({}, self.average, *(one.fingerprint() for one in self.members))

    def replicas(self) -> list[Replica]:
        """One for each device for which every member has a copy."""
        copies: dict[int, list[Replica]] = {
            place: one.replicas() for place, one in enumerate(self.members) if not one.traceable
        }
        every = zip(*copies.values(), strict=False)
        return [self._replica(dict(zip(copies, some, strict=True))) for some in every]

    def _replica(self, copies: dict[int, Replica]) -> Replica:
        device, platform, _ = next(iter(copies.values()))
        functions: list[Callable[[Array], Array]] = [
            copies[place].logits
            if place in copies
            else functools.partial(compiled, jax.device_put(one, device))
            for place, one in enumerate(self.members)
        ]

        def logits(images: Array) -> Array:
            return _averaged_at_once([one(images) for one in functions], self.average)

        return Replica(device, platform, logits)


def _averaged(logits: Sequence[Array], average: str) -> Array:
    stacked = jnp.stack([one.astype(jnp.float32) for one in logits])
    if average == "logits":
        return jnp.mean(stacked, axis=0)
    chances = jax.nn.log_softmax(stacked, axis=-1)
    return jax.nn.logsumexp(chances, axis=0) - np.float32(np.log(len(logits)))


_averaged_at_once = jax.jit(_averaged, static_argnames="average")


def _unflattened(about: Any, members: Sequence[Any]) -> Ensemble:
    ensemble = object.__new__(Ensemble)  # JAX puts other things than classifiers into its trees
    ensemble.average, ensemble.metadata, ensemble.traceable, ensemble.backend = about
    ensemble.members = tuple(members)
    return ensemble


jax.tree_util.register_pytree_node(
    Ensemble,
    lambda one: (one.members, (one.average, one.metadata, one.traceable, one.backend)),
    _unflattened,
)
