"""The groups of options that commands share."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dsrs_jax import data, noise
from dsrs_jax.bounds import Bound, Protocol, Search
from dsrs_jax.models import AVERAGES, DTYPES, ModelMetadata, architecture, check_scaling
from dsrs_jax.noise import RadialLaw
from dsrs_jax.proof import schema
from dsrs_jax.system import processes
from dsrs_jax.system.compilation import keep_compiled
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import refuse_address
from dsrs_jax.system.options import option
from dsrs_jax.system.processes import from_first
from dsrs_jax.votes import SecondLaw, fresh_seed, second_laws

LABELS = (schema.GIVEN, schema.PREDICTED)  # whose class is certified
DEFAULT_N0 = 100  # draws that choose a class
BACKENDS = ("auto", "jax", "torch", "torch-compiled")
DEFAULT_INSIDE = (0.2, 0.4, 0.6, 0.8)  # quantiles of P at which it is truncated
AUTO = "auto"  # second laws by a pilot
TIMM = "timm"  # an input scaling: what timm's own record of a model says
TIMM_NETWORK = "timm:"  # before the name of an architecture of timm's


def check_numbers(seed: int | None, batch: int | None = None, patience: float = 1.0) -> None:
    """Refuses what --seed, --batch and --patience must not be.

    Raises:
        UserError: one is outside its domain.
    """
    if batch is not None and batch <= 0:
        raise UserError(f"--batch must be positive, got {batch}")
    if seed is not None and not 0 <= seed < 2**32:
        raise UserError(f"--seed must lie in [0, 2^32), got {seed}")
    if not patience > 0.0:
        raise UserError(f"--patience must be positive, got {patience:g}")


def seed_for_all(given: int | None, earlier: Mapping[str, Any], first: bool) -> int:
    """The seed that was given, or an earlier run's in the folder, or a fresh one of process 0.

    A network made for draws that are known beforehand could be right in these alone.
    """
    before = earlier.get("seed")
    if given is None and type(before) is int and 0 <= before < 2**32:
        given = before
    chosen = fresh_seed() if given is None and first else given or 0
    return int(from_first(np.array(chosen, np.uint32)))


@dataclasses.dataclass(frozen=True)
class DatasetOptions:
    """Data set."""

    dataset: str = option("digits", "data set", choices=data.DATASETS, often=True)
    data_dir: str | None = option(
        None, "folder of its files, or tfds:NAME", metavar="DIR", often=True, local=True
    )
    split: str = option("test", "which part", choices=data.SPLITS)
    classes: str | None = option(
        None,
        "class folders' names in the model's order",
        metavar="FILE",
        local=True,
    )

    def load(self, *, labels: bool = True) -> data.Dataset:
        """The data set; `labels` says whether its labels are needed."""
        return data.load(self.dataset, self.split, self.data_dir, self.classes, labels=labels)


@dataclasses.dataclass(frozen=True)
class ChoiceOptions:
    """Class that is certified."""

    label: str = option("given", "class certified", choices=LABELS, often=True)
    n0: int | None = option(None, "draws that choose a predicted label (100)", metavar="N0")

    def __post_init__(self) -> None:
        if self.n0 is not None and self.label != schema.PREDICTED:
            raise UserError("--n0 goes with --label predicted")
        if self.n0 is not None and self.n0 < 1:
            raise UserError(f"--n0 must be positive, got {self.n0}")

    @property
    def draws(self) -> int:
        """That choose the class of an image; 0 where it is the data set's label."""
        return (self.n0 or DEFAULT_N0) if self.label == schema.PREDICTED else 0


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """Which images."""

    skip: int = option(1, "every SKIP-th image", metavar="SKIP", often=True)
    start: int = option(0, "first index", metavar="I", often=True)
    stop: int = option(-1, "index after the last; -1: to the end", metavar="I", often=True)

    def __post_init__(self) -> None:
        if self.skip < 1:
            raise UserError(f"--skip must be at least 1, got {self.skip}")

    def chosen(self, size: int, source: str) -> range:
        """Indices among 0 ... size - 1; `source` has them, for messages.

        Raises:
            UserError: there are none.
        """
        stop = size if self.stop == -1 else self.stop
        if not 0 <= self.start < stop <= size:
            raise UserError(
                f"--start {self.start} --stop {self.stop} chooses nothing: {source} has the "
                f"indices 0 to {size - 1}"
            )
        return range(self.start, stop, self.skip)


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Model."""

    model: tuple[str, ...] = option(
        (), "folder, run, file or FILE.py:NAME; repeatable", metavar="M", often=True
    )
    arch: str | None = option(None, "of a PyTorch file; or timm:NAME", metavar="NAME")
    weights: str | None = option(None, "which state dict of a PyTorch file", metavar="KEY")
    input_scaling: str | None = option(
        None, "a name, or mean:M,..;std:S,.. (docs/models.md)", metavar="SCALING"
    )
    output: str | None = option(
        None, "index or name of the logits, or probabilities", metavar="OUTPUT"
    )
    backend: str = option("auto", choices=BACKENDS)
    ensemble: str = option("softmax", "what is averaged", choices=AVERAGES)
    dtype: str = option("float32", "arithmetic", choices=DTYPES)

    def __post_init__(self) -> None:
        for model in self.model:
            refuse_address(model, "--model")
        if self.arch is not None and not self.arch.startswith(TIMM_NETWORK):
            architecture(self.arch)
        if self.input_scaling not in (None, TIMM):
            check_scaling(self.input_scaling or "")


@dataclasses.dataclass(frozen=True)
class LawOptions:
    """Smoothing law P (by itself the one that the model was trained with)."""

    sigma: float | None = option(
        None, "sigma of the noise, pixels in [0, 1]", metavar="S", often=True
    )
    k: float | None = option(
        None, "k of the noise, 0 <= 2K < number of pixels", metavar="K", often=True
    )
    eta: float | None = option(None, "exponent of the tail", metavar="E")
    noise: str | None = option(None, "gaussian has k = 0", choices=("gaussian", "general-gaussian"))

    def __post_init__(self) -> None:
        if self.noise == "gaussian" and (self.k or (self.eta or 2.0) != 2.0):
            raise UserError(
                "--noise gaussian has k = 0 and eta = 2; use --noise general-gaussian for others"
            )

    def law(self, image_shape: tuple[int, ...], trained: ModelMetadata | None = None) -> RadialLaw:
        """The law on images of a shape; what was not given is that of the model's training.

        Raises:
            UserError: sigma or k is said by nobody, or a number is outside its domain.
        """
        sigma = self.sigma if trained is None or self.sigma is not None else trained.sigma
        k = self.k if trained is None or self.k is not None else trained.k
        eta = self.eta if trained is None or self.eta is not None else trained.eta
        if self.noise == "gaussian":
            k, eta = 0.0, 2.0
        if sigma is None or k is None:
            whose = "nobody says" if trained is None else "the model does not say"
            raise UserError(
                f"{whose} which noise it was trained with; give --sigma, and --k or "
                "--noise gaussian"
            )
        eta = 2.0 if eta is None else eta
        return noise.generalized_gaussian(math.prod(image_shape), sigma, k, eta)


@dataclasses.dataclass(frozen=True)
class SecondLawOptions:
    """Second laws Q, all repeatable (default: --q-inside 0.2, 0.4, 0.6, 0.8)."""

    q_inside: tuple[float, ...] = option(
        (), "P truncated at quantile b, off P's own draws", metavar="b"
    )
    q_sigma: tuple[float, ...] = option((), "P with another sigma", metavar="B")
    q_threshold: tuple[str, ...] = option(
        (), "P truncated at b, or by a rule: x, x+, x2, x2+", metavar="b|RULE"
    )
    q: str | None = option(None, "chosen by draws of other images", choices=(AUTO,))
    pilot: int = option(2_000, "draws of each of these", metavar="N")

    def __post_init__(self) -> None:
        if self.pilot < 1:
            raise UserError(f"--pilot must be positive, got {self.pilot}")
        if self.q == AUTO and (self.q_inside or self.q_sigma or self.q_threshold):
            raise UserError("--q auto chooses the second laws; leave out the other --q options")

    def laws(self) -> tuple[SecondLaw, ...]:
        """All that were given, or the default."""
        given = second_laws(self.q_inside, self.q_sigma, self.q_threshold)
        return given or second_laws(DEFAULT_INSIDE)

    @property
    def most_laws(self) -> int:
        """P and its second laws, as many as there may be."""
        return 1 + len(self.laws())


@dataclasses.dataclass(frozen=True)
class ProtocolOptions:
    """Bounds and search."""

    n: int = option(50_000, "draws under each law", metavar="N", often=True)
    alpha: float = option(0.001, "failure probability of a certificate", metavar="A", often=True)
    bounds: str = option(Bound.ONE_SIDED.value, choices=[b.value for b in Bound])
    search: str = option(Search.PRECISE.value, choices=[s.value for s in Search])
    grid_unit: float = option(0.05, "of --search grid", metavar="U")

    def __post_init__(self) -> None:
        if self.n <= 0:
            raise UserError(f"--n must be positive, got {self.n}")
        if not 0.0 < self.alpha < 1.0:
            raise UserError(f"--alpha must lie in (0, 1), got {self.alpha:g}")
        if not self.grid_unit > 0.0:
            raise UserError(f"--grid-unit must be positive, got {self.grid_unit:g}")
        if self.n < (fewest := self.protocol().fewest_draws):
            raise UserError(
                f"--n {self.n} draws can certify nothing at alpha = {self.alpha:g}, even if all "
                f"votes are right; give at least {fewest}, and many more for a radius worth having"
            )

    def protocol(self) -> Protocol:
        """The protocol."""
        return Protocol(self.alpha, Bound(self.bounds), Search(self.search), self.grid_unit)


@dataclasses.dataclass(frozen=True)
class ProcessOptions:
    """Several processes, one a host: the same command on each, with one --out."""

    distributed: bool = option(False, "find the others: TPU, Slurm, MPI, Kubernetes")
    coordinator: str | None = option(None, "of process 0", metavar="HOST:PORT")
    num_processes: int | None = option(None, "how many", metavar="P")
    process_id: int | None = option(None, "which one, 0 ... P - 1", metavar="I")

    def initialize(self) -> None:
        """Joins this process to the others (`processes.initialize`)."""
        processes.initialize(**dataclasses.asdict(self))

    @contextlib.contextmanager
    def rendezvous(self) -> Iterator[processes.Group]:
        """All processes are inside together (`processes.rendezvous`)."""
        with processes.rendezvous(**dataclasses.asdict(self)) as found:
            yield found


@dataclasses.dataclass(frozen=True)
class CompilationOptions:
    """Compilation."""

    no_compilation_cache: bool = option(False, "do not keep compiled programs for later runs")

    def apply(self) -> None:
        """Turns the cache on, unless it is not wanted."""
        if not self.no_compilation_cache:
            keep_compiled()
