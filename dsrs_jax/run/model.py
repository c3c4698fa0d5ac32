"""The model of a run: a folder, a run of train, a PyTorch file, or the digits' own."""

from __future__ import annotations

from pathlib import Path

from etils import epath
from rich.console import Console

from dsrs_jax import data, report, train
from dsrs_jax.convert import cached
from dsrs_jax.models import METADATA_FILE, Classifier, ModelMetadata, load_model, save_model
from dsrs_jax.run.settings import LawOptions, ModelOptions
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import is_remote

FOLDER = "model"  # of a run's own model
# The digits' default: chosen by measurement (docs/certificates.md, "Which second law?").
_DIGITS_SIGMA, _DIGITS_K, _DIGITS_EPOCHS = 0.5, 28.0, 150


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
    classifier = _find(options, law, dataset, out, console, alone, seed)
    metadata = classifier.metadata
    # Files of one's own need not show every class of the model.
    fits = dataset.classes == metadata.classes or (
        dataset.name in ("folder", "npz") and dataset.classes <= metadata.classes
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
        raise UserError("--arch and --input-scaling are for a PyTorch file given as --model")
    of_a_run = (path / FOLDER / METADATA_FILE).is_file()
    return path / FOLDER if of_a_run and not (path / METADATA_FILE).exists() else path


def _find(
    options: ModelOptions,
    law: LawOptions,
    dataset: data.Dataset,
    out: epath.Path,
    console: Console,
    alone: bool,
    seed: int,
) -> Classifier:
    if options.model is not None:
        folder = model_folder(options.model, options.arch, options.input_scaling)
        return load_model(folder, options.dtype)
    if options.arch or options.input_scaling:
        raise UserError("--arch and --input-scaling are for a PyTorch file given as --model")
    if dataset.name != "digits":
        raise UserError(f"--dataset {dataset.name} needs --model PATH; `dsrs-jax train` makes one")
    if not alone or is_remote(out):
        raise UserError(
            "several processes, or a bucket as --out, need --model; a run of one process makes "
            "one, runs/digits/model"
        )
    if not (out / FOLDER).exists():
        _train_digits(law, out, console, seed)
    return load_model(out / FOLDER, options.dtype)


def _train_digits(law: LawOptions, out: epath.Path, console: Console, seed: int) -> None:
    k = _DIGITS_K if law.k is None else law.k
    training = data.in_memory(data.load("digits", "train"))
    recipe = train.Recipe(
        arch="digits_cnn",
        method="smoothmix",
        sigma=_DIGITS_SIGMA if law.sigma is None else law.sigma,
        k=0.0 if law.noise == "gaussian" else k,
        eta=2.0 if law.eta is None else law.eta,
        k_warmup=20,
        noise_draws=2,
        epochs=_DIGITS_EPOCHS,
        batch=128,
        learning_rate=0.05,
        learning_rate_step=_DIGITS_EPOCHS // 3 + 1,
        weight=1.0,
        steps=4,
        step_size=0.5,
        seed=seed,
    )
    metadata = ModelMetadata(
        arch=recipe.arch,
        dataset="digits",
        image_shape=training.image_shape,
        classes=training.classes,
        sigma=recipe.sigma,
        k=recipe.k,
        eta=recipe.eta,
        method=recipe.method,
        epochs=recipe.epochs,
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        seed=seed,
    )
    with report.progress(console, "training", _DIGITS_EPOCHS, "epochs") as advance:
        model = train.train(training, recipe, on_epoch=lambda info: advance(1))
    save_model(Path(out) / FOLDER, model, metadata)
