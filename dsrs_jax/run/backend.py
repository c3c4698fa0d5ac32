"""What computes a PyTorch module's logits: PyTorch, PyTorch compiled, or JAX; the fastest here."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable

import jax
import numpy as np
from rich.console import Console

from dsrs_jax import noise
from dsrs_jax.models import BaseClassifier
from dsrs_jax.run.settings import BACKENDS
from dsrs_jax.system.errors import UserError, first_line
from dsrs_jax.system.processes import from_first, together
from dsrs_jax.votes import Sampler

AUTO, JAX, TORCH, COMPILED = BACKENDS
_SHORT_RUN = 300.0  # seconds: compiling two programs would take a third of it
_TRIALS = 3


def choose(
    wanted: str,
    earlier: str | None,
    makers: dict[str, Callable[[], BaseClassifier]],
    *,
    jax_alone: bool,
    draws: int,
    first: bool,
    console: Console,
) -> BaseClassifier:
    """The module as the backend that is wanted runs it; for "auto" as process 0 decides for all.

    Args:
        wanted: one of BACKENDS.
        earlier: the backend that the run was begun with, if it was.
        makers: of each backend, the classifier that it is; they may raise UserError.
        jax_alone: whether JAX has an accelerator here that PyTorch cannot use.
        draws: of the run, in all: a short one is not worth measuring.
        first: whether this is process 0, which says in a line what was chosen, and why.
        console: for the line.

    Raises:
        UserError: the backend that is wanted cannot run the module.
    """
    # What is measured is used: a program is not compiled again.
    makers = {name: functools.cache(make) for name, make in makers.items()}
    if wanted == AUTO and earlier in makers:
        wanted = earlier
    if wanted != AUTO:
        return makers[wanted]()

    def decide() -> int:
        found = _best(makers, jax_alone, draws, console) if first else TORCH
        return BACKENDS.index(found)

    return makers[BACKENDS[int(from_first(np.array(together(decide), np.int32)))]]()


def _best(
    makers: dict[str, Callable[[], BaseClassifier]], jax_alone: bool, draws: int, console: Console
) -> str:
    def tell(text: str) -> None:
        console.print(f"Backend: {text}", soft_wrap=True, markup=False, highlight=False)

    if jax_alone:
        try:
            makers[JAX]()
        except UserError as error:
            tell(f"torch, on the CPU ({error}).")
            return TORCH
        tell(f"jax, since PyTorch finds no {jax.local_devices()[0].platform} here.")
        return JAX
    speeds = {TORCH: _speed(makers[TORCH]())}
    if draws < _SHORT_RUN * speeds[TORCH]:
        tell(f"torch, {speeds[TORCH]:,.0f} draws a second (a short run: others were not tried).")
        return TORCH
    failures = []
    for name in (COMPILED, JAX):
        try:
            speeds[name] = _speed(makers[name]())
        except UserError as error:
            failures.append(f"{name}: {error}")
        except Exception as error:  # torch.compile raises many kinds, without a C++ compiler too
            if name != COMPILED:
                raise
            failures.append(f"{name}: {type(error).__name__}: {first_line(error)}")
    best = max(speeds, key=lambda name: speeds[name])
    others = [f"{name} {speed:,.0f}" for name, speed in speeds.items() if name != best]
    tell(f"{best}, {speeds[best]:,.0f} draws a second ({'; '.join(others + failures)}).")
    return best


def _speed(classifier: BaseClassifier) -> float:
    """Draws a second, noise and counting included, of an image for each device."""
    shape = classifier.metadata.image_shape
    sampler = Sampler(classifier, pilot=True)
    law = noise.generalized_gaussian(math.prod(shape), 0.25, 0.0, 2.0)
    n = sampler.tile(math.prod(shape))
    images = np.zeros((sampler.devices, *shape), np.float32)
    seconds = []
    for _ in range(1 + _TRIALS):
        clock = time.perf_counter()
        sampler.start(images, np.zeros(len(images), np.int32), law, n).result()
        seconds.append(time.perf_counter() - clock)
    return n * sampler.devices / min(seconds[1:])  # the first one compiles
