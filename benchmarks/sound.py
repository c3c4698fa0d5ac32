"""How exact sound draws are, and whether they have their law: what `noise.sound.ROUNDING` rests on.

    python benchmarks/sound.py [--seconds 20]     rounding errors against 60 digits, so long a law
    python benchmarks/sound.py --law              10^6 draws of each law: p-values (minutes)

The first prints the largest relative errors of a level and of a coordinate, beside the share of
draws that were ambiguous and what is charged; 16 times an error has to stay below ROUNDING (of a
coordinate: over min(1, eta)).
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from dsrs_jax.noise import RadialLaw, generalized_gaussian, sound
from dsrs_jax.system.devices import use_all_cores

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
import exact_draws

LAWS = [  # d, sigma, k, eta, grid
    (64, 0.5, 28.0, 2.0, 240), (64, 0.5, 0.0, 2.0, 240), (65, 0.5, 31.5, 2.0, 240),
    (64, 0.5, 31.7, 2.0, 240), (784, 0.5, 380.0, 2.0, 255), (784, 0.5, 390.0, 1.0, 255),
    (784, 0.5, 0.0, 0.12, 255), (3072, 0.25, 1530.0, 2.0, 255), (3072, 0.5, 0.0, 3.0, 255),
    (150_528, 0.5, 75_260.0, 2.0, 255), (150_528, 1.0, 0.0, 2.0, 255),
]  # fmt: skip
PART = 256


def as_numbers(law: RadialLaw) -> RadialLaw:
    return jax.tree.map(np.float64, law.as_truncated())


def errors(seconds: float) -> None:
    print(f"ROUNDING = {sound.ROUNDING:g}")
    print("| d | k | eta | draws | coordinates | level | coordinate | ambiguous | wrong | charge |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for dimension, sigma, k, eta, grid in LAWS:
        law = generalized_gaussian(dimension, sigma, k, eta)
        numbers, scale = as_numbers(law), exact_draws.scale_of(law)
        part = PART if dimension < 10_000 else 2

        def draw(key, numbers=numbers, grid=grid):
            return sound.coordinates(numbers, key, grid), sound.draw(numbers, key, grid)

        program = jax.jit(jax.vmap(draw))
        level_error = error = 0.0
        n = ambiguous = wrong = 0
        begun = time.monotonic()
        while time.monotonic() < begun + seconds:
            keys = jax.random.split(jax.random.key(n), part)
            found, made = jax.tree.map(np.asarray, program(keys))
            bits = exact_draws.bits_of(law, keys)
            values = np.concatenate([found.first, found.second], axis=1)[:, :dimension]
            for i in range(part):
                level = exact_draws.level_of(law, bits.level[i])
                level_error = max(level_error, abs(float((found.level[i] - level) / level)))
                exact = exact_draws.coordinates_of(law, scale, level, bits.direction[i], grid)
                for e, value, cell in zip(
                    exact, values[i].tolist(), made.cells[i].tolist(), strict=True
                ):
                    error = max(error, abs(float((value - e) / e)))
                    wrong += not (abs(e - cell) < 0.5 or made.ambiguous[i])
            n, ambiguous = n + part, ambiguous + int(made.ambiguous.sum())
        print(
            f"| {dimension} | {k:g} | {eta:g} | {n:,} | {n * dimension:,} | {level_error:.2g} "
            f"| {error:.2g} | {ambiguous} | {wrong} | {sound.charge(law, grid):.2g} |",
            flush=True,
        )


def laws(n: int = 1_000_000) -> None:
    print("| d | k | eta | level | first coordinate | second | mean square |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    seed = 0
    for dimension in (64, 784, 3072):
        for k in (0.0, dimension / 2 - 2.0):
            for eta in (1.0, 2.0, 3.0):
                law = generalized_gaussian(dimension, 0.5, k, eta)
                numbers = as_numbers(law)

                def one(key, numbers=numbers):
                    made = sound.draw(numbers, key, 1_000_000)
                    e = made.cells.astype(jnp.float64) / 1_000_000
                    square = jnp.sum(e * e)
                    cosines = e[jnp.array([0, numbers.dimension // 2])] / jnp.sqrt(square)
                    return made.level, square, cosines

                seed += 1
                keys = jax.random.split(jax.random.key(seed), n)
                program = jax.jit(lambda keys, one=one: jax.lax.map(one, keys, batch_size=512))
                level, square, cosines = map(np.asarray, program(keys))
                half = 0.5 * (dimension - 1)
                values = [stats.kstest(level, stats.gamma(law.shape).cdf).pvalue]
                for cosine in cosines.T:
                    found = stats.kstest(0.5 * (1 + cosine), stats.beta(half, half).cdf)
                    values.append(found.pvalue)
                z = (square.mean() - 0.25 * dimension) / square.std() * n**0.5
                values.append(2 * stats.norm.sf(abs(z)))
                shown = " | ".join(f"{value:.3f}" for value in values)
                print(f"| {dimension} | {k:g} | {eta:g} | {shown} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--law", action="store_true")
    settings = parser.parse_args()
    use_all_cores()
    with jax.enable_x64(True):
        laws() if settings.law else errors(settings.seconds)


if __name__ == "__main__":
    main()
