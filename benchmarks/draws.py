"""Draws that pay: what looks save, beside a fixed number of draws in the same run.

    python benchmarks/draws.py digits [--model runs/digits]
    python benchmarks/draws.py mnist --data-dir DIR --model DIR [--n 20000] [--skip 200]
    python benchmarks/draws.py published DIR [--files cohen-mnist-380-0.50]

The first two draw: every image N times, then with looks, the same seed; draws and seconds are given
as ratios to the first. The third simulates: of each image of a published file the counts of P and a
Q say how fast its probability falls with the length of the noise, Phi(a - b z), and so what the
laws inside P would have counted; radii there are forecasts (at most 1% below certificates).
"""

import argparse
import dataclasses
import itertools
import re
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray
from scipy import special

from dsrs_jax import data, models, noise
from dsrs_jax.bounds import Looks, Protocol
from dsrs_jax.certify import CertificateTable, Goal, Stopping, certify_table
from dsrs_jax.certify.forecast import Forecast
from dsrs_jax.noise import RadialLaw, sound
from dsrs_jax.run import published_study
from dsrs_jax.run.settings import LawOptions
from dsrs_jax.system.devices import use_all_cores
from dsrs_jax.votes import (
    Counted,
    RecordFolder,
    Sampler,
    SamplingPlan,
    collect,
    second_laws,
    table_of,
)

PROTOCOL = Protocol(0.001)
INSIDE = (0.2, 0.4, 0.6, 0.8)
DIMENSIONS = {"mnist": 784, "cifar": 3072, "imagenet": 150528}
N = 100_000  # of simulations
DATASETS = {"mnist": "mnist", "cifar": "cifar10", "imagenet": "imagenet"}
STEP = 0.25  # of a table at sigma = 0.5; in proportion below


def goals(step: float, largest: float) -> dict[str, Goal]:
    radii = tuple(np.arange(step, largest, step).round(6).tolist())
    middle = radii[len(radii) // 2 - 1]
    return {
        f"--radii in steps of {step:g}": Goal(radii=radii),
        f"--radii in steps of {step / 2:g}": Goal(
            radii=tuple(np.arange(step / 2, largest, step / 2).round(6).tolist())
        ),
        f"--radii {middle:g}": Goal(radii=(middle,)),
        **{f"--tolerance {value:g}": Goal(tolerance=value) for value in (0.005, 0.01, 0.02, 0.05)},
    }


def difference(goal: Goal, found: NDArray[np.float64], full: NDArray[np.float64]) -> str:
    """What the looks cost: points of the table's entries, or of the mean radius."""
    if not goal.radii:
        return f"{100 * (found.mean() / full.mean() - 1):+.2f}% of the mean radius"
    points = [100 * (np.mean(found >= r) - np.mean(full >= r)) for r in goal.radii]
    return f"points: worst {min(points, key=lambda p: -abs(p)):+.2f}, mean {np.mean(points):+.2f}"


def measure(dataset: data.Dataset, place: str, n: int, skip: int, step: float) -> None:
    classifier = models.load_model(Path(place) / "model")
    law = LawOptions().law(classifier.metadata.image_shape, classifier.metadata)
    extra = second_laws(inside=INSIDE)
    fixed, looked = SamplingPlan(law, extra, n), SamplingPlan(law, extra, n, Looks(n))
    laws = [law, *(law.truncated(q) for q in INSIDE)]
    charges = [sound.charge(one, dataset.grid or 1) for one in laws]
    sampler = Sampler(classifier, cutoffs=fixed.cutoffs, grid=dataset.grid)
    examples = list(data.read_ahead(dataset, list(range(0, len(dataset), skip))))
    forecast = Forecast(laws)

    def nothing(draws: int) -> None:
        """Nobody looks on."""

    def run(plan: SamplingPlan, rule: Stopping | None) -> tuple[CertificateTable, float, float]:
        """(certificates, draws of an image, seconds)."""
        with tempfile.TemporaryDirectory() as place, RecordFolder(place, {}) as folder:
            clock = time.perf_counter()
            collect(plan, PROTOCOL, sampler, examples, folder, nothing, nothing, rule)
            seconds = time.perf_counter() - clock
            records = [folder.records[one.index] for one in examples]
        radius_of = None if rule is None else rule.radius
        table = table_of(plan, PROTOCOL, records, dataset.grid, radius_of)
        drawn = float(np.mean([record["draws"][0] for record in records]))
        return certify_table(table, PROTOCOL), drawn, seconds

    run(SamplingPlan(law, extra, 64), None)  # compiles
    full, drawn, seconds = run(fixed, None)
    print(
        f"{len(examples)} images, N = {n:,}: {drawn:,.0f} draws an image, {seconds:.1f} s, mean "
        f"radius {full.radius.mean():.4f}"
    )
    largest = float(full.radius.max()) + step
    for name, goal in goals(step, largest).items():
        rule = Stopping(laws, fixed.names, charges, PROTOCOL, Looks(n), n, goal, forecast)
        found, own, taken = run(looked, rule)
        print(
            f"{name}: {drawn / own:.2f} times fewer draws, {seconds / taken:.2f} times faster: "
            f"{100 * (seconds / taken) / (drawn / own):.0f}% of it; "
            f"{difference(goal, found.radius, full.radius)}",
            flush=True,
        )


@dataclasses.dataclass
class Simulation:
    """Votes of images whose probability inside each shell is known."""

    laws: list[RadialLaw]
    names: list[str]
    right: NDArray[np.float64]  # (images, shells)
    rng: np.random.Generator

    def draw(self, rows: NDArray[np.int64], n: int) -> tuple[NDArray, NDArray]:
        """(draws, votes), (images, laws) each."""
        mass = np.diff([0.0, *(law.quantile for law in self.laws[1:]), 1.0])
        drawn = self.rng.multinomial(n, mass / mass.sum(), len(rows))
        votes = self.rng.binomial(drawn, self.right[rows])
        order = [len(self.laws) - 1, *range(len(self.laws) - 1)]
        return np.cumsum(drawn, axis=1)[:, order], np.cumsum(votes, axis=1)[:, order]

    def looked(self, rule: Stopping, schedule: tuple[int, ...]) -> tuple[NDArray, NDArray]:
        """(draws, radius), (images,) each."""
        active, size = np.arange(len(self.right)), (len(self.right), len(self.laws))
        draws, votes = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
        radius = np.zeros(len(self.right))
        for number, (before, n) in enumerate(itertools.pairwise((0, *schedule)), start=1):
            more = self.draw(active, n - before)
            draws[active] += more[0]
            votes[active] += more[1]
            counted = Counted(active, number, draws[active], votes[active])
            radius[active] = np.maximum(radius[active], rule.radius(counted))
            if number < len(schedule):
                active = active[rule(counted)]
        return draws[:, 0], radius


class AtOnce(Looks):
    """One look with all of alpha."""

    planned_look = 1

    def draws(self, number: int) -> int:
        return self.planned

    def share(self, number: int):
        return 1

    def up_to(self, draws: int) -> tuple[int, ...]:
        return (self.planned,)


def shells(base: RadialLaw, q: RadialLaw, p: NDArray, right_q: NDArray) -> NDArray[np.float64]:
    """(images, shells) probabilities that the counts under P and Q allow."""
    points, each = np.array([0.0, *INSIDE, 1.0]), 40
    middles = (np.arange(each) + 0.5) / each
    share = (points[:-1, None] + np.diff(points)[:, None] * middles).ravel()
    weight = np.repeat(np.diff(points), each) / each

    def z(law: RadialLaw, shares: NDArray) -> NDArray:
        level = special.gammaincinv(law.shape, shares)
        middle, deviation = np.log(base.shape) / base.eta, 1 / (base.eta * np.sqrt(base.shape))
        length = np.log(level) / law.eta + np.log(law.scale / base.scale)
        return (length - middle) / deviation

    own, other = z(base, share), z(q, (np.arange(200) + 0.5) / 200)
    found, error = np.zeros((len(p), len(share))), np.full(len(p), np.inf)
    for b in np.linspace(0.0, 3.0, 31):
        low, high = np.full(len(p), -40.0), np.full(len(p), 40.0)
        for _ in range(50):
            a = (low + high) / 2
            below = special.ndtr(a[:, None] - b * own) @ weight < p
            low, high = np.where(below, a, low), np.where(below, high, a)
        off = np.abs(special.ndtr(a[:, None] - b * other).mean(axis=1) - right_q)
        better = off < error
        error = np.where(better, off, error)
        found[better] = special.ndtr(a[better, None] - b * own)
    return found.reshape(len(p), -1, each).mean(axis=2)


def simulate(folder: Path, wanted: list[str]) -> None:
    for place in sorted((folder / "sampling").iterdir()):
        model = place.name
        if wanted and not any(name in model for name in wanted):
            continue
        _, dataset, k, sigma = re.fullmatch(r"(\w+)-(\w+)-(\d+)-([\d.]+)\.pth", model).groups()
        law = noise.generalized_gaussian(DIMENSIONS[dataset], float(sigma), float(k))
        names = (re.fullmatch(rf"general-gaussian-{k}-([\d.]+)-50000-0.0005.txt", f.name)
                 for f in place.iterdir())  # fmt: skip
        others = sorted(float(one[1]) for one in names if one and float(one[1]) < float(sigma))
        if not others:
            continue
        options = published_study.StudyOptions(
            published=str(folder), model_name=model, dataset=DATASETS[dataset],
            law=LawOptions(sigma=float(sigma), k=float(k)), q_sigma=(others[-1],),
        )  # fmt: skip
        table = published_study.load(options).table
        known = np.all((table.votes >= 0) & (table.draws > 0), axis=1)
        share = np.clip(table.votes[known] / table.draws[known], 1e-6, 1 - 1e-6)
        right = shells(law, law.with_sigma(others[-1]), share[:, 0], share[:, 1])
        laws = [law, *(law.truncated(q) for q in INSIDE)]
        repeat = max(1, 2000 // len(right))
        rng = np.random.default_rng(0)
        inside = Simulation(
            laws, ["p", *(f"inside_{q}" for q in INSIDE)], right.repeat(repeat, 0), rng
        )
        alone = dataclasses.replace(
            inside, laws=[law], names=["p"], right=share[:, :1].repeat(repeat, 0)
        )
        for what, simulation in (("Neyman-Pearson", alone), ("DSRS", inside)):
            forecast = Forecast(simulation.laws)

            def rule(looks: Looks, goal: Goal, one=simulation, made=forecast) -> Stopping:
                none = [0.0] * len(one.laws)
                return Stopping(one.laws, one.names, none, PROTOCOL, looks, N, goal, made)

            _, full = simulation.looked(rule(AtOnce(N), Goal(tolerance=0.01)), (N,))
            print(f"{model}, {what}: {len(right)} images {repeat} times, mean radius "
                  f"{full.mean():.4f}, seed 0, N = {N:,}")  # fmt: skip
            step = STEP * min(1.0, float(sigma) / 0.5)
            for name, goal in goals(step, float(full.max()) + step).items():
                draws, radius = simulation.looked(rule(Looks(N), goal), Looks(N).up_to(N))
                print(f"  {name}: N / {N / draws.mean():.2f}; {difference(goal, radius, full)}",
                      flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("digits", "mnist", "published"))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--data-dir")
    parser.add_argument("--model", default="runs/digits")
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--skip", type=int, default=1)
    parser.add_argument("--files", nargs="+", default=[])
    options = parser.parse_args()
    use_all_cores()
    jax.config.update("jax_numpy_rank_promotion", "allow")
    if options.what == "published":
        simulate(options.folder, options.files)
    else:
        dataset = data.load(options.what, "test", options.data_dir, None)
        measure(dataset, options.model, options.n, options.skip, STEP)


if __name__ == "__main__":
    main()
