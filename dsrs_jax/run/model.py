"""The model of a run: a folder, a run of train, a PyTorch file, or the digits' own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
from etils import epath
from rich.console import Console

from dsrs_jax import data, report, train
from dsrs_jax.convert import cached
from dsrs_jax.models import METADATA_FILE, OWN_SETS, Classifier, load_model, save_model
from dsrs_jax.run.settings import LawOptions, ModelOptions
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import is_remote

_FOLDER = "model"  # of a run's own model
# The digits' default: chosen by measurement (docs/certificates.md, "Which second law?").
_DIGITS = train.Recipe(
    "digits_cnn", method="smoothmix", sigma=0.5, k=28.0, k_warmup=20, noise_draws=2, epochs=150,
    batch=128, learning_rate=0.05, learning_rate_step=51, weight=1.0, steps=4, step_size=0.5,
)  # fmt: skip


def classifier_of(
    options: ModelOptions,
    law: LawOptions,
    dataset: data.Dataset,
    out: epath.Path,
    console: Console,
    *,
    alone: bool,
    seed: int,
) -> Classifier:
    """The classifier that the options name, or a small one for the digits where they name none.

    Args:
        options, law: as given.
        dataset: that it must fit.
        out: run directory, where the digits' own model is kept.
        console: for progress.
        alone: whether this is a run of one process; only such a run makes a model.
        seed: of the training.

    Raises:
        UserError: there is no such model, or it does not fit.
    """
    if options.model is not None:
        folder = model_folder(options.model, options.arch, options.input_scaling)
    elif options.arch or options.input_scaling:
        raise UserError(_FOR_A_FILE)
    elif dataset.name != "digits":
        raise UserError(f"--dataset {dataset.name} needs --model PATH; `dsrs-jax train` makes one")
    elif not alone or is_remote(out):
        raise UserError(
            "several processes, or a bucket as --out, need --model; a run of one process makes "
            "one, runs/digits/model"
        )
    else:
        folder = Path(out) / _FOLDER
        if not folder.exists():
            _train_digits(law, folder, console, seed)
    classifier = load_model(folder, options.dtype)
    metadata = classifier.metadata
    # Files of one's own need not show every class of the model.
    fits = dataset.classes == metadata.classes or (
        dataset.name in OWN_SETS and dataset.classes <= metadata.classes
    )
    if metadata.image_shape != dataset.image_shape or not fits:
        raise UserError(
            f"the model {metadata.arch} takes images {metadata.image_shape} of "
            f"{metadata.classes} classes, {dataset.name} has {dataset.image_shape} of "
            f"{dataset.classes}; give the model of this dataset"
        )
    return classifier


def model_folder(path: str | Path, arch: str | None = None, scaling: str | None = None) -> Path:
    """The checkpoint folder that a path means: itself, `model` in a run, or a converted file.

    Raises:
        UserError: options of a PyTorch file with a folder, or a file that cannot be converted.
    """
    path = Path(path)
    if path.is_file():
        return cached(path, arch=arch, scaling=scaling)
    if arch or scaling:
        raise UserError(_FOR_A_FILE)
    of_a_run = (path / _FOLDER / METADATA_FILE).is_file()
    return path / _FOLDER if of_a_run and not (path / METADATA_FILE).exists() else path


_FOR_A_FILE = "--arch and --input-scaling are for a PyTorch file given as --model"


def _train_digits(law: LawOptions, folder: Path, console: Console, seed: int) -> None:
    k = 0.0 if law.noise == "gaussian" else law.k
    recipe = dataclasses.replace(
        _DIGITS,
        sigma=_DIGITS.sigma if law.sigma is None else law.sigma,
        k=_DIGITS.k if k is None else k,
        eta=_DIGITS.eta if law.eta is None else law.eta,
        seed=seed,
    )
    training = data.in_memory(data.load("digits", "train"))
    with report.progress(console, "training", recipe.epochs, "epochs") as advance:
        # On one device, whatever there are: the README's numbers are those of this model.
        model = train.train(
            training, recipe, devices=jax.devices()[:1], on_epoch=lambda info: advance(1)
        )
    metadata = dataclasses.replace(train.metadata_of(training, recipe), epochs=recipe.epochs)
    save_model(folder, model, metadata)
