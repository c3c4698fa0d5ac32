"""The four training methods on scikit-learn's digits: what they reach, on the same budget.

    python benchmarks/digits.py [--epochs 100] [--seeds 3]

σ = 0.5, k = 28, two noise draws an image. Means over the seeds: seconds of training, right answers
on noisy test images (mean of the last five epochs), and of every fourth test image the certified
accuracy at 0.5 and the mean radius (Neyman-Pearson, 4,000 draws, α = 0.001).
"""

import argparse
import dataclasses
import time

import numpy as np

from dsrs_jax import data, models
from dsrs_jax.bounds import lower_bound
from dsrs_jax.certify import certify
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.train import METHODS, EpochInfo, Recipe, train
from dsrs_jax.votes import count_votes

RECIPE = Recipe(
    "digits_cnn", sigma=0.5, k=28.0, k_warmup=10, noise_draws=2, batch=128, learning_rate=0.05,
    learning_rate_step=50, steps=4,
)  # fmt: skip
OWN = {"consistency": {"weight": 5.0}, "smoothadv": {"epsilon": 64.0}}
OWN["smoothmix"] = {"weight": 1.0, "step_size": 0.5}
DRAWS, ALPHA = 4000, 0.001


def measured(
    recipe: Recipe, training: data.ArrayDataset, test: data.ArrayDataset
) -> tuple[float, ...]:
    """(seconds, right under noise, certified accuracy at 0.5, mean radius) of one run."""
    seen: list[EpochInfo] = []
    clock = time.perf_counter()
    model = train(training, recipe, test=test, on_epoch=seen.append)
    seconds = time.perf_counter() - clock
    description = models.ModelMetadata(recipe.arch, "digits", test.image_shape, test.classes)
    classifier = models.Classifier.from_model(model, description)
    law = generalized_gaussian(64, recipe.sigma, recipe.k)
    some = np.arange(0, len(test), 4)
    votes = count_votes(classifier, test.images[some], test.labels[some], law, DRAWS, indices=some)
    radius = certify(law, lower_bound(votes.votes[:, 0], DRAWS, ALPHA)).radius
    right = float(np.mean([info.test_accuracy for info in seen[-5:]]))
    return seconds, right, float(np.mean(radius >= 0.5)), float(radius.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    settings = parser.parse_args()
    training, test = (data.in_memory(data.load("digits", split)) for split in ("train", "test"))
    print("| method | seconds | right under noise | certified at 0.5 | mean radius | each seed |")
    print("|---|--:|--:|--:|--:|---|")
    for method in METHODS:
        recipe = dataclasses.replace(
            RECIPE, method=method, epochs=settings.epochs, **OWN.get(method, {})
        )
        rows = [
            measured(dataclasses.replace(recipe, seed=seed), training, test)
            for seed in range(settings.seeds)
        ]
        seconds, right, certified, radius = np.mean(rows, axis=0)
        print(
            f"| {method} | {seconds:.0f} | {100 * right:.1f}% | {100 * certified:.1f}% "
            f"| {radius:.4f} | {', '.join(f'{row[3]:.4f}' for row in rows)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
