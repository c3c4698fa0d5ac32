"""Attacks on the smoothed classifier at images, as many at once as the devices like."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from dsrs_jax.attack.balls import distance, exactly_within
from dsrs_jax.attack.outcome import Outcome, Target, Try, Votes, is_right, p_value
from dsrs_jax.attack.program import (
    CLEAN,
    RECHECK,
    Attack,
    Course,
    Rows,
    advance,
    budget_of,
    count_classes,
)
from dsrs_jax.data import cells_of
from dsrs_jax.models import BaseClassifier
from dsrs_jax.noise import Law, RadialLaw
from dsrs_jax.system.errors import UserError, first_line
from dsrs_jax.votes import can_be_sound, tile_size
from dsrs_jax.votes.kernel import precision

_ATTACK = 0x4154_544B  # beyond the number of any key that is split off a seed
# Steps of one compiled call: then images that are done make room for others. On a CPU a loop costs
# more than it saves (`gradient.ascent`).
_LONGEST, _LONGEST_ON_A_CPU = 10, 1


@dataclasses.dataclass
class _Running:
    """An image under attack, in one ball and from one start."""

    target: Target
    outcome: Outcome
    offset: np.ndarray
    looks: int  # of fresh draws, at the image itself too
    start: int = 0
    steps: int = 0  # from this start
    lost: bool = False

    @property
    def now(self) -> Try:
        return self.outcome.tries[-1]


class Attacker:
    """Attacks images of one classifier under one law, on all local devices.

    Args:
        classifier: from float32 images (N, H, W, C) in [0, 1] plus noise to logits (N, classes),
            two classes at least; a `BaseClassifier`, or any function that JAX can trace and
            differentiate.
        law: the noise.
        attack: how.
        grid: as for `votes.Sampler`: votes are those of the classifier that rounds its input, by
            sound draws, and the images are multiples of 1/grid, which attacked ones need not be.
            None: float32 draws, as certificates without a proof have them.
        seed: of all draws, in [0, 2^32).
        batch: images at once, over all devices; a group for each unless given. Results do not
            depend on it.
        on_smaller: called with the number of draws in a forward pass, when the devices' memory did
            not hold more.

    Raises:
        UserError: JAX has no gradients of the classifier, a number is outside its domain, or
            there are no sound draws of this law on these devices.
    """

    def __init__(
        self,
        classifier: BaseClassifier | Callable[[Array], Array],
        law: Law,
        attack: Attack,
        *,
        grid: int | None = None,
        seed: int = 0,
        batch: int | None = None,
        on_smaller: Callable[[int], None] = lambda draws: None,
    ) -> None:
        if batch is not None and batch < 1:
            raise UserError(f"the batch must be positive, got {batch}")
        if not 0 <= seed < 2**32:
            raise UserError(f"the seed must lie in [0, 2^32), got {seed}")
        if isinstance(classifier, BaseClassifier) and not classifier.traceable:
            raise UserError(
                f"{classifier.metadata.arch} runs outside JAX, which has no gradients of it; "
                "use --backend jax"
            )
        if grid is not None and not (can_be_sound() and isinstance(law, RadialLaw)):
            raise UserError(
                "no sound draws: they are of the radial family, on devices with IEEE's float64; "
                "use --draws float32"
            )
        model: Any = classifier
        if not isinstance(classifier, BaseClassifier):
            model = jax.tree_util.Partial(classifier)
        self.attack, self.grid, self._batch, self._on_smaller = attack, grid, batch, on_smaller
        self._program = dataclasses.replace(attack, recheck=0, alpha=0.5)  # not the loop's concern
        self._classes = 0  # until the first image was seen
        devices = np.array(jax.local_devices())
        self._mesh = Mesh(devices, ("devices",), axis_types=(AxisType.Auto,))
        self._most = tile_size(law.dimension, devices[0].platform)
        self._longest = _LONGEST_ON_A_CPU if devices[0].platform == "cpu" else _LONGEST
        # By name, and apart from other streams of the seed: votes/sampler.py says why.
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), _ATTACK)
        real = np.float32 if grid is None else np.float64
        numbers = jax.tree.map(lambda leaf: np.array(leaf, real), law)
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        model, key = jax.device_put((model, key), everywhere)
        with precision(grid):
            self._constants = model, jax.device_put(numbers, everywhere), key

    @property
    def images_at_once(self) -> int:
        """How many images are under attack together."""
        group, _, _ = self.attack.tiling(self._most)
        return self._batch or group * self._mesh.size

    def attack_all(self, targets: Iterable[Target]) -> Iterator[Outcome]:
        """The outcomes, each as soon as it is there.

        Raises:
            UserError: JAX cannot differentiate the classifier, it does not return the logits of
                two classes at least, a label is none of them, an image does not lie on the grid, or
                the devices' memory does not hold one draw.
        """
        waiting, running = iter(targets), list[_Running]()
        while True:
            fresh = list(itertools.islice(waiting, self.images_at_once - len(running)))
            if fresh and not self._classes:
                self._classes = _differentiable_classes(self._constants[0], fresh[0].image)
            for target in fresh:
                self._check(target)
            for target, (outcome, looks) in zip(fresh, self._clean(fresh), strict=True):
                if outcome.right and target.radii:
                    outcome.tries.append(Try(target.radii[0]))
                    running.append(_Running(target, outcome, np.zeros_like(target.image), looks))
                else:
                    yield outcome
            if not running:
                if not fresh:
                    return
                continue
            self._advance(running)
            self._recheck([one for one in running if one.lost])
            still = []
            for one in running:
                if self._goes_on(one):
                    still.append(one)
                else:
                    yield one.outcome
            running = still

    def _check(self, target: Target) -> None:
        if not 0 <= target.label < self._classes:
            raise UserError(
                f"index {target.index} has label {target.label}; the classifier's {self._classes} "
                "classes are numbered from 0"
            )
        if self.grid is not None:
            cells_of(target.image, self.grid)

    def _goes_on(self, one: _Running) -> bool:
        """Whether the image has anything before it; sets it to its next start, or its next ball."""
        tries, radii = one.outcome.tries, one.target.radii
        if one.now.broken:
            return False
        if one.steps < self.attack.steps:
            return True
        one.start, one.steps, one.offset = one.start + 1, 0, np.zeros_like(one.offset)
        if one.start < max(1, self.attack.random_starts):
            one.now.start = one.start
            return True
        if len(tries) == len(radii):
            return False
        one.start = 0
        tries.append(Try(radii[len(tries)]))
        return True

    def _advance(self, running: list[_Running]) -> None:
        """Some steps of each, a group on each device at a time."""
        done = 0
        while done < len(running):
            done += self._advance_some(running[done:])

    def _advance_some(self, running: list[_Running]) -> int:
        """Some steps of the first ones; of how many."""

        def call() -> Course:
            group, _, _ = self.attack.tiling(self._most)
            devices = self._mesh.size
            # Dealt to the devices one by one; what is left of the groups stays empty.
            some = running[: devices * group]
            places = np.array([i % devices * group + i // devices for i in range(len(some))])
            rows, course = _placed(some, self.attack.norm, places, devices * group)
            ended = self._on_devices(
                advance, rows, course, attack=self._program, most=self._most, longest=self._longest
            )
            return jax.tree.map(lambda leaf: np.asarray(leaf)[places], ended)

        ended = self._in_memory(call)
        for i, one in enumerate(running[: len(ended.steps)]):
            # From 0 again where a ball or a start was begun: the loop counts one start's steps.
            one.now.steps += int(ended.steps[i]) - one.steps
            one.now.idle += int(ended.idle[i])
            one.steps, one.offset = int(ended.steps[i]), ended.offsets[i]
            one.lost = bool(ended.lost[i])
            one.now.voted |= one.lost
        return len(ended.steps)

    def _recheck(self, lost: list[_Running]) -> None:
        """Looks at what the checks found by fresh draws; what they do not confirm goes on."""
        radii = [one.now.radius for one in lost]
        images = [
            exactly_within(self.attack.norm, one.target.image, one.offset, radius)
            for one, radius in zip(lost, radii, strict=True)
        ]
        votes: list[Votes | None] = [None] * len(lost)
        if self.attack.recheck and lost:
            rows, _ = _placed(lost, self.attack.norm, np.arange(len(lost)), len(lost))
            steps = np.array([one.steps for one in lost], np.int32)
            votes = list(self._count(RECHECK, rows, np.stack(images), steps, self.attack.recheck))
        for one, image, found in zip(lost, images, votes, strict=True):
            one.lost = False
            one.now.recheck = found
            if found is not None:
                one.looks += 1
                chance = p_value(found, self._classes, one.looks)
                if not chance <= self.attack.alpha:
                    continue
                one.now.p_value = chance
            one.now.broken, one.now.image = True, image
            one.now.perturbation = distance(self.attack.norm, image, one.target.image)

    def _clean(self, targets: list[Target]) -> list[tuple[Outcome, int]]:
        """What they are without a perturbation, and how often fresh draws looked at each."""
        if not targets:
            return []
        nothing = np.zeros(len(targets), np.uint32)
        rows = Rows(
            np.stack([one.image for one in targets]),
            np.array([one.label for one in targets], np.int32),
            np.array([one.index for one in targets], np.uint32),
            nothing, nothing, nothing.astype(np.float32),
        )  # fmt: skip
        steps = nothing.astype(np.int32)
        votes = self._count(CLEAN, rows, rows.images, steps, self.attack.votes)
        outcomes = [
            Outcome(one.index, one.label, found, is_right(found))
            for one, found in zip(targets, votes, strict=True)
        ]
        # As few draws may call an image wrong that is right, and so would the whole attack.
        wrong = [i for i, outcome in enumerate(outcomes) if not outcome.right]
        looked = wrong if self.attack.recheck else []
        if looked:
            own = jax.tree.map(lambda leaf: leaf[np.array(looked)], rows)
            again = self._count(CLEAN, own, own.images, steps[looked] + 1, self.attack.recheck)
            for i, found in zip(looked, again, strict=True):
                chance = p_value(found, self._classes, 1)
                confirmed = chance <= self.attack.alpha
                outcomes[i].clean = found
                outcomes[i].right = not confirmed
                outcomes[i].p_value = chance if confirmed else None
        return [(outcome, int(i in looked)) for i, outcome in enumerate(outcomes)]

    def _count(
        self, purpose: int, rows: Rows, attacked: np.ndarray, steps: np.ndarray, draws: int
    ) -> list[Votes]:
        """Votes at some attacked images, one a device at a time."""
        found: list[Votes] = []
        size = self._mesh.size
        for first in range(0, len(steps), size):
            # The last ones again and again fill the row.
            places = np.minimum(np.arange(first, first + size), len(steps) - 1)
            own = jax.tree.map(lambda leaf, places=places: leaf[places], rows)

            def call(own: Rows = own, places: np.ndarray = places) -> np.ndarray:
                counts = self._on_devices(
                    count_classes, own, (attacked[places], steps[places]),
                    np.uint32(purpose), np.int32(draws), tile=self._most,
                )  # fmt: skip
                return np.asarray(counts)

            counts = self._in_memory(call)[: len(steps) - first]
            for row, label in zip(counts.tolist(), own.labels.tolist(), strict=False):
                found.append(Votes(row.pop(label), max(row)))
        return found

    def _on_devices(self, program: Any, rows: Rows, *more: Any, **static: Any) -> Any:
        """Calls a compiled program, its rows split over the devices."""
        split = NamedSharding(self._mesh, PartitionSpec("devices"))
        # Like the key's generator: a draw must not depend on what the process has set.
        with jax.threefry_partitionable(True), precision(self.grid):
            rows = jax.device_put(rows, split)
            return program(*self._constants, rows, *more, **static, grid=self.grid, mesh=self._mesh)

    def _in_memory(self, call: Callable[[], Any]) -> Any:
        """What a call returns, if need be with smaller forward passes."""
        while True:
            try:
                return call()
            except jax.errors.JaxRuntimeError as error:
                said = str(error).lower()
                if "resource_exhausted" not in said and "out of memory" not in said:
                    raise
                if self._most == 1:
                    raise UserError(
                        "the device's memory does not hold one draw; use --dtype bfloat16 or a "
                        "device with more memory"
                    ) from error
                self._most //= 2
                self._on_smaller(self._most)


def _differentiable_classes(model: Callable[[Array], Array], image: np.ndarray) -> int:
    """How many classes the model has; nothing is computed.

    Raises:
        UserError: they are fewer than two, or JAX cannot differentiate the model.
    """
    images = jax.ShapeDtypeStruct((2, *image.shape), jnp.float32)

    def total(images: Array) -> Array:
        return jnp.sum(model(images))

    try:
        logits = jax.eval_shape(model, images)
        jax.eval_shape(jax.grad(total), images)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"JAX cannot differentiate the model: {first_line(error)}") from error
    if len(logits.shape) != 2 or logits.shape[0] != 2:
        raise UserError(
            f"the classifier returns shape {logits.shape} for 2 images, and not logits (2, classes)"
        )
    if logits.shape[1] < 2:
        raise UserError(
            f"the classifier has {logits.shape[1]} class, of which every image is; of the logit z "
            "of a sigmoid make two: jnp.concatenate([-z, z], axis=1)"
        )
    return int(logits.shape[1])


def _placed(
    running: list[_Running], norm: str, places: np.ndarray, size: int
) -> tuple[Rows, Course]:
    """The arrays of a call with `size` rows; in the places that are left nothing is active."""

    def spread(values: list[Any], dtype: Any) -> np.ndarray:
        array = np.asarray(values, dtype)
        whole = np.zeros((size, *array.shape[1:]), dtype)
        whole[places] = array
        return whole

    rows = Rows(
        spread([one.target.image for one in running], np.float32),
        spread([one.target.label for one in running], np.int32),
        spread([one.target.index for one in running], np.uint32),
        spread([budget_of(norm, one.now.radius) for one in running], np.uint32),
        spread([one.start for one in running], np.uint32),
        spread([one.now.radius for one in running], np.float32),
    )
    course = Course(
        spread([one.offset for one in running], np.float32),
        spread([one.steps for one in running], np.int32),
        np.zeros(size, np.int32),
        np.zeros(size, bool),
        spread([True] * len(running), bool),
    )
    return rows, course
