"""What a smoothing law is to the sampler and to the certifier."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float32, Key


@runtime_checkable
class Law(Protocol):
    """A noise law: a frozen JAX pytree of numbers, so that one program serves every such law.

    `noise.RadialLaw` is the one that there is; a new family offers the same.
    """

    @property
    def dimension(self) -> int:
        """Number of coordinates of a draw."""

    @property
    def norm(self) -> str:
        """The norm in which its certificates are balls: "l2"."""

    def draw(self, key: Key[Array, ""]) -> tuple[Float32[Array, ""], Float32[Array, " dimension"]]:
        """One draw, a function of the key alone: its level and the noise, in pixel units.

        The level orders draws by their distance from the centre: a law cut off at a level holds
        exactly the draws up to it.
        """

    def parameters(self) -> dict[str, int | float | None]:
        """The numbers that define the law: equal ones, equal law and equal draws."""
