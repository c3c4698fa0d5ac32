"""The training recipes at equal time: what they reach on digits or MNIST, over several seeds.

    python benchmarks/recipes.py [--dataset mnist --data-dir DIR] [--seconds 20] [--seeds 3]

First a few epochs of each recipe say what its epoch costs on this machine; then each is trained for
as many epochs as fit into `--seconds` of CPU time. Means over the seeds: right answers under noise
on the first 1,000 test images, and of some test images the certified accuracy at 0.5 and the mean
radius by Neyman-Pearson and by DSRS, from the same draws (4,000 an image, MNIST 2,000; α = 0.001).
σ = 0.5; k = 28 on digits, 380 on MNIST, whose network is `lenet`, trained on 5,120 images.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np

import dsrs_jax
from dsrs_jax import data
from dsrs_jax.train import EpochInfo, Recipe, metadata_of, train

# What every recipe of a data set has in common, test images that are certified, their draws,
# and the training images (the first ones of MNIST, so that an epoch is short).
SETS = {
    "digits": (Recipe("digits_cnn", k=28.0, batch=128, learning_rate=0.05), 4, 4_000, 1_437),
    "mnist": (Recipe("lenet", k=380.0, batch=64, learning_rate=0.02), 100, 2_000, 5_120),
}
RECIPES: dict[str, dict[str, object]] = {
    "gaussian": {"noise_draws": 1},
    "gaussian, 2 draws": {"noise_draws": 2},
    "consistency": {"method": "consistency", "noise_draws": 2},
    "smoothadv": {"method": "smoothadv", "noise_draws": 2, "steps": 2, "epsilon": 64.0},
    "smoothmix": {
        "method": "smoothmix", "noise_draws": 2, "steps": 4, "weight": 1.0, "step_size": 0.5,
    },
    "macer": {
        "method": "macer", "noise_draws": 4, "weight": 0.3, "warmup": -2, "learning_rate": 0.02,
    },
    "catrs": {
        "method": "catrs", "noise_draws": 4, "weight": 0.5, "epsilon": 128.0, "steps": 1,
    },
    "smoothmix, inner 1/4": {
        "method": "smoothmix", "noise_draws": 2, "steps": 4, "weight": 1.0, "step_size": 0.5,
        "inside": 0.25,
    },
    "gaussian, inner 1/2": {"noise_draws": 2, "inside": 0.5},
    "gaussian, sigma rises": {"noise_draws": 2, "sigma_warmup": -2},
    "gaussian, moving average": {"noise_draws": 2, "decay": 0.99},
}  # fmt: skip
# The same on MNIST, whose images are twelve times as large, and so are attacks on them.
ON_MNIST: dict[str, dict[str, object]] = {
    "smoothadv": {"epsilon": 256.0},
    "smoothmix": {"step_size": 1.0, "weight": 5.0},
    "smoothmix, inner 1/4": {"step_size": 1.0, "weight": 5.0},
    "catrs": {"epsilon": 256.0},
}


def recipes(dataset: str) -> dict[str, Recipe]:
    """All of them for a data set, their schedules still unsaid."""
    common = SETS[dataset][0]
    more = ON_MNIST if dataset == "mnist" else {}
    return {
        name: dataclasses.replace(common, **{**own, **more.get(name, {})})  # type: ignore[arg-type]
        for name, own in RECIPES.items()
    }


def scheduled(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with a schedule of so many epochs; a warm-up of -n is an nth of them."""

    def part(warmup: int) -> int:
        return epochs // -warmup if warmup < 0 else warmup

    return dataclasses.replace(
        recipe,
        epochs=epochs,
        k_warmup=epochs // 4,
        learning_rate_step=-(-epochs // 2),
        warmup=min(part(recipe.warmup), max(1, epochs // 4)) if recipe.warmup > 0
        else part(recipe.warmup),
        sigma_warmup=part(recipe.sigma_warmup),
    )  # fmt: skip


def seconds_an_epoch(recipe: Recipe, training: data.ArrayDataset) -> float:
    """CPU seconds of the cheapest of three epochs, compilation left out."""
    few = min(len(training), 8 * recipe.batch)
    some = data.ArrayDataset(
        training.name, "train", training.images[:few], training.labels[:few], training.classes
    )
    ends: list[float] = []
    short = dataclasses.replace(recipe, epochs=4, warmup=1, sigma_warmup=0)
    train(some, short, on_epoch=lambda info: ends.append(time.process_time()))
    return float(min(np.diff(ends))) * len(training) / few


def measured(
    recipe: Recipe, training: data.ArrayDataset, test: data.ArrayDataset, every: int, draws: int
) -> tuple[float, ...]:
    """(CPU seconds of training with compilation, right under noise, certified accuracy at 0.5, mean
    radius by Neyman-Pearson, by DSRS)."""
    seen: list[EpochInfo] = []
    clock = time.process_time()
    few = data.ArrayDataset("few", "test", test.images[:1000], test.labels[:1000], test.classes)
    model = train(training, recipe, test=few, on_epoch=seen.append)
    seconds = time.process_time() - clock
    classifier = dsrs_jax.models.Classifier.from_model(model, metadata_of(training, recipe))
    some = np.arange(0, len(test), every)
    found = dsrs_jax.certify_images(
        classifier, test.images[some], test.labels[some], n=draws, alpha=0.001, quiet=True
    )
    right = float(np.mean([info.test_accuracy for info in seen[-3:]]))
    radius = found.radius
    plain = found.neyman_pearson.radius
    return seconds, right, float(np.mean(radius >= 0.5)), float(plain.mean()), float(radius.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=tuple(SETS), default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--seconds", type=float, default=20.0, help="of CPU time")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--costs", type=Path, help="file that keeps what an epoch costs")
    settings = parser.parse_args()
    _, every, draws, size = SETS[settings.dataset]
    training, test = (
        data.in_memory(data.load(settings.dataset, split, settings.data_dir))
        for split in ("train", "test")
    )
    training = data.ArrayDataset(
        training.name, "train", training.images[:size], training.labels[:size], training.classes
    )
    chosen = {name: recipe for name, recipe in recipes(settings.dataset).items()
              if name in settings.only}  # fmt: skip
    known = settings.costs is not None and settings.costs.exists()
    costs = json.loads(settings.costs.read_text()) if known else {}
    for name, recipe in chosen.items():
        if name not in costs:
            costs[name] = seconds_an_epoch(recipe, training)
    if settings.costs is not None:
        settings.costs.write_text(json.dumps(costs))
    heads = (
        "recipe",
        "epochs",
        "CPU seconds",
        "right under noise",
        "certified at 0.5",
        "mean radius (NP)",
    )
    print("| " + " | ".join([*heads, "(DSRS)", "each seed"]) + " |")
    print("|---|--:|--:|--:|--:|--:|--:|---|", flush=True)
    for name, recipe in chosen.items():
        epochs = max(1, round(settings.seconds / costs[name]))
        planned = scheduled(recipe, epochs)
        rows = [
            measured(dataclasses.replace(planned, seed=seed), training, test, every, draws)
            for seed in range(settings.seeds)
        ]
        seconds, right, certified, plain, radius = np.mean(rows, axis=0)
        print(
            f"| {name} | {epochs} | {seconds:.0f} | {100 * right:.1f}% | {100 * certified:.1f}% "
            f"| {plain:.4f} | {radius:.4f} | {', '.join(f'{row[4]:.4f}' for row in rows)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
