"""Certificates of images in memory, by one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console

from dsrs_jax import report
from dsrs_jax.bounds import Protocol
from dsrs_jax.certify import CertificateTable, certify_table
from dsrs_jax.convert.arrays import array_of
from dsrs_jax.data import ArrayDataset, from_arrays
from dsrs_jax.models import DTYPES, BaseClassifier
from dsrs_jax.run import draws as kinds
from dsrs_jax.run.model import Use, check_fit, of_name, of_object
from dsrs_jax.run.settings import BACKENDS, DEFAULT_INSIDE, DEFAULT_N0, LawOptions, ModelOptions
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.processes import Group
from dsrs_jax.votes import count_votes

LAYOUTS = ("NHWC", "NCHW")
_WHAT = (
    "images must be an array (N, H, W, C), uint8 or floats in [0, 1], and labels (N,), whole "
    "numbers from 0"
)


def certify_images(
    classifier: Any,
    images: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    sigma: float | None = None,
    k: float | None = None,
    eta: float | None = None,
    n: int = 50_000,
    alpha: float = 0.001,
    n0: int = DEFAULT_N0,
    inside: Sequence[float] | None = DEFAULT_INSIDE,
    seed: int | None = None,
    layout: str = "NHWC",
    input_scaling: str | None = None,
    output: str | None = None,
    backend: str = "auto",
    dtype: str = "float32",
    draws: str = kinds.SOUND,
    quiet: bool = False,
) -> CertificateTable:
    """Certified radii of a classifier, smoothed, on images that lie in memory.

    Args:
        classifier: a `torch.nn.Module`, which takes (N, C, H, W); a Flax module or a function that
            JAX can trace, which take (N, H, W, C); what `load_model` returns; or whatever
            `--model` takes, as text or path.
        images: (N, H, W, C), uint8, or floats in [0, 1].
        labels: (N,) the class of each image, from 0. None: `n0` draws of their own choose it, and
            a radius of 0 is an abstention (`--label predicted`).
        sigma: of the noise, pixels in [0, 1]; by itself the one of the model's training, if it
            says so.
        k, eta: of generalized Gaussian noise; by themselves the training's, else 0 and 2, which is
            the Gaussian.
        n: draws of each image.
        alpha: failure probability of each certificate.
        n0: draws that choose the class of an image without a label.
        inside: quantiles of P at which it is truncated for a second law, each in (0, 1). None
            leaves Neyman-Pearson alone.
        seed: of all draws. None: one that nobody can know beforehand; `votes.seed` of the table
            says it.
        layout: "NHWC" or "NCHW", of `images`, whatever the classifier takes.
        input_scaling: what is done to pixels first, as `--input-scaling` takes it. None: nothing,
            and 64 images are tried.
        output, backend, dtype, draws: as the options of `dsrs-jax certify`.
        quiet: whether to print nothing: no progress, no advice.

    Returns:
        The table: `radius` (N,) of DSRS, `neyman_pearson.radius`, `status`, `votes`, whose `label`
        is the class that is certified.

    Raises:
        UserError: in one line what is wrong with an argument.
    """
    for name, value, known in (
        ("layout", layout, LAYOUTS),
        ("backend", backend, BACKENDS),
        ("dtype", dtype, DTYPES),
        ("draws", draws, kinds.KINDS),
    ):
        if value not in known:
            raise UserError(f"unknown {name} {value!r}; known: {', '.join(known)}")
    if n0 < 1:
        raise UserError(f"n0 must be positive, got {n0}")
    protocol = Protocol(alpha)
    if n < (fewest := protocol.fewest_draws):
        raise UserError(
            f"n = {n} draws can certify nothing at alpha = {alpha:g}, even if all votes are right; "
            f"give at least {fewest}, and many more for a radius worth having"
        )
    console = Console(quiet=quiet)
    dataset = _dataset(images, labels, layout)
    options = ModelOptions(input_scaling=input_scaling, output=output, backend=backend, dtype=dtype)
    use = Use(dataset, range(len(dataset)), len(dataset) * n, (), Group(0, 1), seed or 0)
    try:
        model = _model(classifier, options, use, console)
    except UserError as error:
        shape = dataset.images.shape
        if layout == "NHWC" and shape[1] in (1, 3) and shape[3] not in (1, 3):
            raise UserError(f"{error}; images of shape {shape} look like layout='NCHW'") from error
        raise
    check_fit(model.metadata, dataset)
    trained = model.metadata
    law = LawOptions(sigma, 0.0 if k is None and trained.k is None else k, eta).law(
        dataset.image_shape, trained
    )
    grid = kinds.grid_of(draws, dataset)
    with report.progress(console, "sampling", len(dataset) * n, "draws") as advance:
        votes = count_votes(
            model,
            dataset.images,
            None if labels is None else dataset.labels,
            law,
            n,
            inside=[law.truncated(quantile) for quantile in inside or ()],
            seed=seed,
            grid=grid,
            n0=n0,
            advance=advance,
        )
    return certify_table(votes, protocol)


def _dataset(images: ArrayLike, labels: ArrayLike | None, layout: str) -> ArrayDataset:
    pixels = array_of(images, "images")
    if layout == "NCHW" and pixels.ndim == 4:
        pixels = np.ascontiguousarray(np.moveaxis(pixels, 1, -1))
    classes = None if labels is None else array_of(labels, "labels")
    try:
        return from_arrays(pixels, classes, "arrays", "test")
    except ValueError as error:
        raise UserError(f"{_WHAT}: {error}") from None


def _model(classifier: Any, options: ModelOptions, use: Use, console: Console) -> BaseClassifier:
    if isinstance(classifier, (str, Path)):
        return of_name(str(classifier), None, options, use, console)
    if not isinstance(classifier, BaseClassifier):
        return of_object(classifier, options, use, console)
    if options != ModelOptions():
        raise UserError(
            "input_scaling, output, backend and dtype are a loaded model's own; leave them out"
        )
    return classifier
