"""Seconds to certify 990 instances, beside SciPy doing the same on a few of them.

    python benchmarks/certify.py [--dimension 784 --k 380] [--instances 990] [--reference 3]

The bounds are drawn like those of a published MNIST file: most probabilities near 1, Q's bound
above what Neyman-Pearson's region predicts. No two instances are equal, so none is saved.
"""

import argparse
import time

import numpy as np

from dsrs_jax import certify_bounds, generalized_gaussian
from dsrs_jax.certify import reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimension", type=int, default=784)
    parser.add_argument("--k", type=float, default=380)
    parser.add_argument("--sigma", type=float, default=0.5)
    parser.add_argument("--q-sigma", type=float, default=0.4)
    parser.add_argument("--instances", type=int, default=990)
    parser.add_argument("--reference", type=int, default=3, help="instances that SciPy certifies")
    settings = parser.parse_args()
    law = generalized_gaussian(settings.dimension, settings.sigma, settings.k)
    extra = law.with_sigma(settings.q_sigma)
    random = np.random.default_rng(0)
    wrong = 10.0 ** random.uniform(-3.8, np.log10(0.45), settings.instances)
    bound = 1.0 - wrong
    extra_bound = 1.0 - wrong * random.uniform(0.15, 0.6, settings.instances)

    def both() -> tuple[float, float, np.ndarray]:
        clock = time.perf_counter()
        certify_bounds(law, bound)
        middle = time.perf_counter()
        radius = certify_bounds(law, bound, [extra], [extra_bound]).radius
        return middle - clock, time.perf_counter() - middle, radius

    first = sum(both()[:2])
    neyman_pearson, dsrs, radius = min(
        (both() for _ in range(3)), key=lambda times: times[0] + times[1]
    )
    # DSRS starts from Neyman-Pearson's certificates: its seconds contain theirs.
    print(f"{settings.instances} instances, d = {settings.dimension}, k = {settings.k:g}, J = 1")
    print(f"first call (with compilation)   {first:8.2f} s")
    print(f"Neyman-Pearson                  {neyman_pearson:8.2f} s")
    print(f"DSRS (Neyman-Pearson included)  {dsrs:8.2f} s")

    chosen = np.linspace(0, settings.instances - 1, settings.reference).astype(int)
    clock = time.perf_counter()
    found = [reference.solve((law, extra), [bound[i], extra_bound[i]]) for i in chosen]
    each = (time.perf_counter() - clock) / len(chosen)
    worst = max(
        abs(result[1] - radius[i]) for result, i in zip(found, chosen, strict=True) if result
    )
    print(f"SciPy reference, each instance  {each:8.2f} s (radii differ by at most {worst:.1e})")
    print(f"ratio: {each * settings.instances / dsrs:,.0f} times faster than the reference")


if __name__ == "__main__":
    main()
