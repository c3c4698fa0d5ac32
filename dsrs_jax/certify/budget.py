"""A number of draws for all images together, spent where they raise the table or the mean most."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float64

from dsrs_jax.certify.stopping import Stopping
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes.table import Counted

_ROUNDS = 16  # in about so many the budget is spent: after each all images are ranked anew


class Budget:
    """The rule of a budget: in rounds, a further look for the images that gain most from a draw.

    What it decides follows from the counts at the looks that it had asked for before, and from
    nothing else; so a run that was interrupted goes on as if it had not been.

    Args:
        stopping: what counts let expect; its goal's radii, if there are any, are what is raised,
            else the mean radius.
        draws: of P, of all images together.
    """

    def __init__(self, stopping: Stopping, draws: int) -> None:
        self._stopping, self._draws = stopping, draws
        self.radius = stopping.radius
        self._target: dict[int, int] = {}
        # By image and look: its counts there never change, and each round ranks all images.
        self._worths: dict[tuple[int, int], float] = {}

    def __call__(self, counted: Counted) -> Bool[np.ndarray, " images"]:
        """(images,) whether an image is to reach a further look than this one."""
        target = [self._target.get(index, 0) for index in counted.index.tolist()]
        return np.array(target) > counted.number

    def refuse_too_few(self, images: int) -> None:
        """Refuses a budget that does not reach for one look at every image.

        Raises:
            UserError: it does not.
        """
        first = self._stopping.looks.draws(1)
        if images * first > self._draws:
            raise UserError(
                f"--budget {self._draws} is too small: one look at each of {images} images takes "
                f"{images * first} draws"
            )

    def decide(
        self,
        indices: Sequence[int],
        looks: Callable[[int], int],
        counted: Callable[[Sequence[int], int], Counted],
    ) -> None:
        """Decides, round after round from the first, until counts are needed that nobody has.

        Args:
            indices: the images.
            looks: at how many looks an image has been counted.
            counted: counts of images at a look.
        """
        schedule = self._stopping.looks
        target = dict.fromkeys(indices, 1)
        spent = len(indices) * schedule.draws(1)
        while all(looks(index) >= number for index, number in target.items()):
            chosen, of_round = [], 0
            for index in self._by_worth(target, counted):
                cost = schedule.draws(target[index] + 1) - schedule.draws(target[index])
                if spent + of_round + cost > self._draws:
                    continue
                chosen.append(index)
                of_round += cost
                if of_round * _ROUNDS >= self._draws:
                    break
            if not chosen:
                break
            spent += of_round
            for index in chosen:
                target[index] += 1
        self._target = target

    def _by_worth(
        self, target: dict[int, int], counted: Callable[[Sequence[int], int], Counted]
    ) -> list[int]:
        """Images that further draws may raise, those first that gain most from each draw."""
        for number in set(target.values()):
            new = [i for i, at in target.items() if at == number and (i, at) not in self._worths]
            if new:
                found = self._worth(counted(new, number)).tolist()
                self._worths |= {(i, number): one for i, one in zip(new, found, strict=True)}
        worth = {index: self._worths[index, number] for index, number in target.items()}
        gaining = [index for index in target if worth[index] > 0.0]
        return sorted(gaining, key=lambda index: -worth[index])

    def _worth(self, counted: Counted) -> Float64[np.ndarray, " images"]:
        """(images,) the most that a further draw adds on the way to some later look."""
        now, later = self._stopping.outlook(counted)
        looks, best = self._stopping.looks, np.zeros(len(now))
        for number, expected in later.items():
            draws = looks.draws(number) - looks.draws(counted.number)
            best = np.maximum(best, self._stopping.gain(now, expected) / draws)
        return best
