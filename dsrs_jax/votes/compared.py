"""Whether a classifier's answer to a draw is its answer to that image alone.

A certificate speaks of a function of one image. A network that looks at the other images of a batch
(an average or a maximum over the batch, a scale found from all of it) is none: it is one function
in a tile of draws of one image, and another where it is used. So on some tiles of a run the answers
are compared with those to a draw alone, and with those among draws of other images, in other
places. What was never compared is taken on trust (docs/proof.md).
"""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from dsrs_jax.models import Replica, compiled
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes.kernel import Block, drawn, precision

# Images of a run of which some answers are compared in any case: the first, and others, spread.
_FIRST, _SPREAD = 4, 8
# Draws of a compared tile that are given to the classifier one at a time.
_ALONE, _ALONE_AT_FIRST = 2, 16
_TILES = 700  # to one that is compared: then it takes less than a hundredth of the time
_KEPT = 4  # tiles whose draws are mixed with later ones
# By how much a draw's margin, of its first logit over the second, may move: in parts of the usual
# margin and of the two logits. Other images in a batch of the same size should change nothing at
# all; in a batch of another size another program computes the same sums, maybe in bfloat16.
_SAME_SIZE, _OTHER_SIZE = (0.05, 1e-5), (0.3, 0.02)


def always_compared(indices: Sequence[int]) -> list[int]:
    """Images of a run of which some answers are compared in any case, from all of its images."""
    size = len(indices)
    spread = [place * (size - 1) // (_SPREAD - 1) for place in range(_SPREAD if size else 0)]
    return [*indices[:_FIRST], *(indices[place] for place in spread)]


class DependsOnOthersError(UserError):
    """The classifier's answer to an image depends on what else is in the batch."""


class _Answered(NamedTuple):
    """Draws as the network sees them, and its logits of them in a tile of one image."""

    images: NDArray[np.float32]
    logits: NDArray[np.float32]


def _margins(logits: NDArray[np.float32], answer: NDArray[np.int64]) -> NDArray[np.float64]:
    """By how much the answer's logit is above the largest other one.

    Of these two alone: a class that is never first may have any logit.
    """
    rows, wide = np.arange(len(logits)), logits.astype(np.float64)
    first = wide[rows, answer]
    wide[rows, answer] = -np.inf
    return first - np.max(wide, axis=1, initial=-np.inf)


def _answer_of(logits: NDArray[np.float32]) -> str:
    if not np.isfinite(logits).all():
        return "no finite logits"
    answer = np.argmax(logits[None], axis=1)
    return f"class {answer[0]} by {_margins(logits[None], answer)[0]:.2g}"


class Comparison:
    """Compares the answers of one classifier, and keeps draws to be mixed with later ones.

    Args:
        classifier: a `BaseClassifier` or a callable pytree.
        device: on which its draws are made.
        replicas: of one that JAX cannot trace.
        seed: of the run: which tiles are compared follows from it.
        grid: of sound draws (`Sampler`).
        surely: dataset indices of images of which at least one tile is compared.
    """

    def __init__(
        self,
        classifier: Any,
        *,
        device: jax.Device,
        replicas: Sequence[Replica],
        seed: int,
        grid: int | None,
        surely: Iterable[int],
    ) -> None:
        metadata = getattr(classifier, "metadata", None)
        self._name = "the classifier" if metadata is None else metadata.arch
        # A program for one shape alone would be compiled again for another.
        self._one_shape = "torch-compiled" in getattr(classifier, "backend", "")
        self._answer = replicas[0].logits if replicas else functools.partial(compiled, classifier)
        self._device, self._seed, self._grid = device, seed, grid
        self._surely = frozenset(surely)
        self._earlier: deque[_Answered] = deque(maxlen=_KEPT)

    def compare(self, images: Block, key: Array, tile: int) -> NDArray[np.int64]:
        """Compares answers to some of the draws of each image of a request; of how many.

        Which tiles follows from seed, image, law and draws: what a run compared does not depend on
        how often it was interrupted. An image in `surely` has at least one, of its first request.

        Raises:
            DependsOnOthersError: margins differ by more than rounding.
        """
        compared = np.zeros(len(images.labels), np.int64)
        for place in range(len(compared)):
            row = jax.tree.map(lambda leaf, place=place: np.asarray(leaf[place]), images)
            about = (int(row.indices), int(row.streams), int(row.begin), int(row.end))
            index, _, begin, end = about
            random = self._random(*about)
            surely = begin == 0 and index in self._surely
            tiles = max(int((end - begin) / _TILES + random.random()), int(surely))
            alone = _ALONE_AT_FIRST if surely else _ALONE
            for number in random.integers(begin, end, tiles).tolist():
                draws = self._drawn(row, key, number, tile)
                compared[place] += self._compare_tile(
                    index, draws, alone, self._random(*about, number)
                )
        return compared

    def _drawn(self, row: Block, key: Array, number: int, tile: int) -> NDArray[np.float32]:
        with jax.threefry_partitionable(True), precision(self._grid):
            own, key = jax.device_put((row, key), self._device)
            seen = drawn(own, key, np.int32(number), grid=self._grid, tile=tile)
        return np.asarray(seen.images)

    def _logits(self, images: NDArray[np.float32], tile: int) -> NDArray[np.float32]:
        size = len(images)
        if self._one_shape and size < tile:
            images = np.concatenate([images, images[-1:].repeat(tile - size, axis=0)])
        return np.asarray(self._answer(jax.device_put(images, self._device)))[:size]

    def _compare_tile(
        self, index: int, images: NDArray[np.float32], alone: int, random: np.random.Generator
    ) -> int:
        """Compares the answers to a tile (tile, H, W, C); of how many draws."""
        tile = len(images)
        own = _Answered(images, self._logits(images, tile))
        finite = own.logits[np.isfinite(own.logits).all(axis=1)]
        usual = (
            float(np.median(_margins(finite, np.argmax(finite, axis=1)))) if len(finite) else 0.0
        )
        half = max(1, tile // 2)
        rows = random.permutation(tile)
        chosen, kept = rows[:half], rows[-half:]
        others = self._others(own, tile - half, random)
        mixed = np.concatenate([images[chosen], others.images])
        known = np.concatenate([own.logits[chosen], others.logits])
        order = random.permutation(len(mixed))  # an answer may depend on the place, too
        found = np.empty((len(mixed), *known.shape[1:]), np.float32)
        found[order] = self._logits(mixed[order], tile)
        self._agree(
            index, known, found[: len(known)], usual, _SAME_SIZE, "beside draws of other images"
        )
        for place in chosen[:alone].tolist():
            found = self._logits(images[place : place + 1], tile)
            self._agree(index, own.logits[place : place + 1], found, usual, _OTHER_SIZE, "alone")
        self._earlier.append(_Answered(images[kept], own.logits[kept]))
        return half

    def _others(self, own: _Answered, count: int, random: np.random.Generator) -> _Answered:
        """Draws of images that were compared before; at first negatives, black and white.

        The logits of these are not known, and are none.
        """
        if self._earlier:
            earlier = _Answered(*map(np.concatenate, zip(*self._earlier, strict=True)))
            rows = random.integers(0, len(earlier.images), count)
            return _Answered(earlier.images[rows], earlier.logits[rows])
        made_up = 1.0 - own.images[:count]
        made_up[1::3], made_up[2::3] = 0.0, 1.0
        return _Answered(made_up, own.logits[:0])

    def _agree(
        self,
        index: int,
        expected: NDArray[np.float32],
        found: NDArray[np.float32],
        usual: float,
        tolerance: tuple[float, float],
        how: str,
    ) -> None:
        """DependsOnOthersError where margins differ by more than rounding."""
        finite = np.isfinite(expected).all(axis=1)
        odd = finite != np.isfinite(found).all(axis=1)
        both = np.flatnonzero(finite & ~odd)
        answer = np.argmax(expected[both], axis=1)
        before, after = (_margins(logits[both], answer) for logits in (expected, found))
        size = np.abs(expected[both, answer].astype(np.float64)) + before
        moved = np.abs(after - before)
        odd[both] = moved > tolerance[0] * usual + tolerance[1] * size
        if np.any(odd):
            worst = int(np.flatnonzero(odd)[0])
            said = [_answer_of(logits[worst]) for logits in (expected, found)]
            raise DependsOnOthersError(
                f"{self._name} is not a function of one image: {int(odd.sum())} of {len(odd)} "
                f"answers to draws of image {index} change {how}, one from {said[0]} to {said[1]}. "
                "Votes of it certify nothing: let the logits of an image depend on that image "
                "alone (no average, maximum or scale over the batch)"
            )

    def _random(self, *numbers: int) -> np.random.Generator:
        text = repr((self._seed, *numbers)).encode()
        return np.random.default_rng(int.from_bytes(hashlib.sha256(text).digest()[:16], "little"))
