"""The model of a run: a folder, a run of train, a file, a user's own code, or the digits' own."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath
from rich.console import Console

from dsrs_jax import data, report, train
from dsrs_jax.convert import cached
from dsrs_jax.convert.program_classifier import from_file
from dsrs_jax.convert.user_code import Made, import_from, is_user_code
from dsrs_jax.models import (
    METADATA_FILE,
    OWN_SETS,
    BaseClassifier,
    Ensemble,
    FunctionClassifier,
    InputScaling,
    ModelMetadata,
    as_pytree,
    input_scaling,
    load_model,
    metadata_of,
    refuse_too_few_classes,
    save_model,
)
from dsrs_jax.run import backend, trial
from dsrs_jax.run.settings import TIMM, TIMM_NETWORK, LawOptions, ModelOptions
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import is_remote
from dsrs_jax.system.processes import Group

_FOLDER = "model"  # of a run's own model
_PROGRAM = ".pt2"
# The digits' default: chosen by measurement (docs/certificates.md, "Which second law?").
_DIGITS = train.Recipe(
    "digits_cnn", method="smoothmix", sigma=0.5, k=28.0, k_warmup=20, noise_draws=2, epochs=150,
    batch=128, learning_rate=0.05, learning_rate_step=51, weight=1.0, steps=4, step_size=0.5,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Use:
    """What a model is wanted for.

    Attributes:
        dataset: that it must fit.
        indices: of the run's images.
        draws: of the run, in all.
        backends: of each --model, that the run was begun with, if it was.
        processes: of the run: process 0 tells what is found, and one alone makes a model.
        seed: of a training.
    """

    dataset: data.Dataset
    indices: Sequence[int]
    draws: int
    backends: Sequence[str]
    processes: Group
    seed: int

    @property
    def first(self) -> bool:
        return self.processes.process == 0


def classifier_of(
    options: ModelOptions, law: LawOptions, use: Use, out: epath.Path, console: Console
) -> BaseClassifier:
    """The classifier that the options name, or a small one for the digits where they name none.

    Args:
        options, law: as given.
        use: what it is for.
        out: run directory, where the digits' own model is kept.
        console: for progress.

    Raises:
        UserError: there is no such model, or it does not fit.
    """
    dataset = use.dataset
    if options.model:
        begun = itertools.zip_longest(options.model, use.backends[: len(options.model)])
        members = [of_name(text, earlier, options, use, console) for text, earlier in begun]
        classifier = members[0] if len(members) == 1 else Ensemble(members, options.ensemble)
    elif options.arch or options.input_scaling or options.weights or options.output:
        raise UserError(_FOR_A_FILE)
    elif dataset.name != "digits":
        raise UserError(f"--dataset {dataset.name} needs --model PATH; `dsrs-jax train` makes one")
    elif use.processes.processes > 1 or is_remote(out):
        raise UserError(
            "several processes, or a bucket as --out, need --model; a run of one process makes "
            "one, runs/digits/model"
        )
    else:
        folder = Path(out) / _FOLDER
        if not folder.exists():
            _train_digits(law, folder, console, use.seed)
        classifier = load_model(folder, options.dtype)
    check_fit(classifier.metadata, dataset)
    return classifier


def check_fit(metadata: ModelMetadata, dataset: data.Dataset) -> None:
    """UserError unless a model takes a data set's images and has its classes, two at least."""
    refuse_too_few_classes(metadata.arch, metadata.classes)
    # Files of one's own need not show every class of the model.
    fits = dataset.classes == metadata.classes or (
        dataset.name in OWN_SETS and dataset.classes <= metadata.classes
    )
    if metadata.image_shape != dataset.image_shape or not fits:
        raise UserError(
            f"the model {metadata.arch} takes images {metadata.image_shape} of "
            f"{metadata.classes} classes, those of {dataset.name} are {dataset.image_shape} of "
            f"{dataset.classes}; give the model of this dataset"
        )


def of_name(
    text: str, earlier: str | None, options: ModelOptions, use: Use, console: Console
) -> BaseClassifier:
    """The classifier that one --model means; `earlier` is the backend that it had in this run.

    Raises:
        UserError: there is no such model, it does not fit, or an option is not for it.
    """
    if is_user_code(text):
        if text.startswith(TIMM_NETWORK):
            raise UserError(f"{text} has no weights; give their file: --model FILE --arch {text}")
        if options.arch or options.weights:
            raise UserError(f"--arch and --weights are for a PyTorch file; {text} is code")
        return _of_code(import_from(text), earlier, options, use, console)
    path = _existing(text)
    if options.arch is not None and options.arch.startswith(TIMM_NETWORK):
        try:
            from dsrs_jax.convert.timm_file import timm_network
        except ImportError:
            raise UserError(
                f"--arch {options.arch} needs PyTorch: pip install 'dsrs_jax[torch]'"
            ) from None
        channels = use.dataset.image_shape[-1]
        name = options.arch.removeprefix(TIMM_NETWORK)
        made = timm_network(name, path, options.weights, channels)
        return _of_pytorch(made, earlier, options, use, console)
    if options.backend not in (backend.AUTO, backend.JAX):
        raise UserError(
            f"--backend {options.backend} needs the PyTorch module itself: --model FILE.py:NAME"
        )
    if path.suffix == _PROGRAM and not path.is_dir():
        scaling, metadata = _described(path.name, None, None, options, use)
        program = from_file(path, metadata, scaling, options.output, options.dtype)
        return _tried(program, scaling, options, use, console)
    if options.output is not None:
        raise UserError("--output is for a .pt2 file or a PyTorch module (FILE.py:NAME)")
    if options.input_scaling == TIMM:
        raise UserError("--input-scaling timm is for a module that timm made (FILE.py:NAME)")
    folder = model_folder(path, options.arch, options.input_scaling, options.weights)
    classifier = load_model(folder, options.dtype)
    if path.is_file() and options.input_scaling is None:
        found = classifier.metadata
        check_fit(found, use.dataset)
        scaling = input_scaling(found.dataset, found.scaling or "none")
        if use.first:
            trial.examine(classifier, scaling, use.dataset, use.indices, console)
    return classifier


def of_object(thing: Any, options: ModelOptions, use: Use, console: Console) -> BaseClassifier:
    """The classifier that a PyTorch module, a Flax module or a function of JAX is.

    Raises:
        UserError: it does not fit, or is none of these.
    """
    name = getattr(thing, "__name__", type(thing).__name__)
    if inspect.isclass(thing):
        raise UserError(f"{name} is a class; give an object of it: {name}(...)")
    return _of_code(Made(thing, name, ""), None, options, use, console)


def _of_code(
    made: Made, earlier: str | None, options: ModelOptions, use: Use, console: Console
) -> BaseClassifier:
    name = made.name
    export = sys.modules.get("torch.export")
    if export is not None and isinstance(made.thing, export.ExportedProgram):
        made = made._replace(thing=made.thing.module())
    if _is_torch(made.thing):
        return _of_pytorch(made, earlier, options, use, console)
    if _is_torch(getattr(made.thing, "__self__", None)):
        raise UserError(f"{name} is a method of a PyTorch module; give the module itself")
    if options.backend not in (backend.AUTO, backend.JAX):
        raise UserError(f"--backend {options.backend} is for a PyTorch module; {name} is none")
    if options.output is not None:
        raise UserError(f"--output is for a PyTorch model; let {name} return its logits")
    if options.dtype != "float32":
        raise UserError(f"--dtype is not for a JAX function: {name} has its own arithmetic")
    scaling, metadata = _described(name, made.sha256, made.thing, options, use)
    function = FunctionClassifier(as_pytree(made.thing), metadata, scaling)
    return _tried(function, scaling, options, use, console)


def _is_torch(thing: Any) -> bool:
    torch = sys.modules.get("torch")  # whoever made a module has imported it
    return torch is not None and isinstance(thing, torch.nn.Module)


def _described(
    name: str, sha256: str | None, thing: Any, options: ModelOptions, use: Use
) -> tuple[InputScaling, ModelMetadata]:
    """The input scaling, "none" where nobody says one, and what else is known of a model."""
    text = options.input_scaling or "none"
    if text == TIMM:
        # timm's name for it, and the one that it had before.
        config = getattr(thing, "pretrained_cfg", None) or getattr(thing, "default_cfg", None)
        if not isinstance(config, dict) or not {"mean", "std"} <= set(config):
            raise UserError(f"--input-scaling timm: {name} has no pretrained_cfg of timm's")
        mean, deviation = (",".join(str(one) for one in config[key]) for key in ("mean", "std"))
        text = f"mean:{mean};std:{deviation}"
    scaling = input_scaling(use.dataset.name, text)
    if scaling.channels not in (1, use.dataset.image_shape[-1]):
        raise UserError(
            f"the input scaling has {scaling.channels} channels, {use.dataset.name} has "
            f"{use.dataset.image_shape[-1]}"
        )
    return scaling, ModelMetadata(
        arch=name,
        dataset=use.dataset.name,
        image_shape=use.dataset.image_shape,
        classes=use.dataset.classes,
        scaling=text,
        source=name,
        source_sha256=sha256,
    )


def _tried(
    classifier: Any, scaling: InputScaling, options: ModelOptions, use: Use, console: Console
) -> BaseClassifier:
    """The classifier with the number of its classes, once it was looked at."""
    metadata = dataclasses.replace(classifier.metadata, classes=trial.classes_of(classifier))
    check_fit(metadata, use.dataset)
    if use.first:
        said = options.input_scaling is not None
        trial.examine(classifier, None if said else scaling, use.dataset, use.indices, console)
    return dataclasses.replace(classifier, metadata=metadata)


def _of_pytorch(
    made: Made, earlier: str | None, options: ModelOptions, use: Use, console: Console
) -> BaseClassifier:
    from dsrs_jax.convert import pytorch  # which imports PyTorch: not every user has it

    scaling, metadata = _described(made.name, made.sha256, made.thing, options, use)
    module, classes = pytorch.prepared(
        made.thing, made.name, metadata.image_shape, scaling, options.output
    )
    size = sum(one.numel() for one in module.parameters())
    metadata = dataclasses.replace(metadata, classes=classes, parameters=size)
    check_fit(metadata, use.dataset)

    torch_classifier = functools.partial(
        pytorch.TorchClassifier,
        module, metadata, scaling, source=made.sha256, dtype=options.dtype,
    )  # fmt: skip
    as_it_is = torch_classifier()
    if use.first:
        given = None if options.input_scaling is not None else scaling
        trial.examine(as_it_is, given, use.dataset, use.indices, console)
    return backend.choose(
        options.backend,
        earlier,
        {
            backend.TORCH: lambda: as_it_is,
            backend.COMPILED: lambda: torch_classifier(compiled=True),
            backend.JAX: lambda: pytorch.in_jax(
                module, made.name, metadata, scaling, options.dtype
            ),
        },
        jax_alone=pytorch.on_an_accelerator_of_jax_alone(),
        draws=use.draws,
        first=use.first,
        console=console,
    )


def image_shape_of(options: ModelOptions) -> tuple[int, int, int] | None:
    """(H, W, C) that the first --model says by itself: a folder, a run, or a checkpoint.

    None of code and of programs: they take the images that they are given.

    Raises:
        UserError: there is no such model.
    """
    text = options.model[0]
    of_timm = options.arch is not None and options.arch.startswith(TIMM_NETWORK)
    if of_timm or is_user_code(text) or Path(text).suffix == _PROGRAM:
        return None
    folder = model_folder(text, options.arch, options.input_scaling, options.weights)
    return metadata_of(folder).image_shape


def model_folder(
    path: str | Path,
    arch: str | None = None,
    scaling: str | None = None,
    weights: str | None = None,
) -> Path:
    """The checkpoint folder that a path means: itself, `model` in a run, or a converted file.

    Raises:
        UserError: there is nothing at the path, options of a PyTorch file with a folder, or a file
            that cannot be converted.
    """
    path = _existing(path)
    if path.is_file():
        return cached(path, arch=arch, scaling=scaling, weights=weights)
    if arch or scaling or weights:
        raise UserError(_FOR_A_FILE)
    of_a_run = (path / _FOLDER / METADATA_FILE).is_file()
    return path / _FOLDER if of_a_run and not (path / METADATA_FILE).exists() else path


def _existing(text: str | Path) -> Path:
    """The path of a model, before anything else is said of it."""
    path = Path(text)
    if not os.path.exists(path):  # False for names that no system has, too
        advice = "; code is FILE.py:NAME or package.module:NAME" if ":" in str(text) else ""
        raise UserError(f"no such file or folder: {text!s:.200}{advice}")
    if path.suffix == ".py" and path.is_file():
        raise UserError(f"{text} is code; say what in it is the model: --model {text}:NAME")
    return path


_FOR_A_FILE = (
    "--arch, --weights, --output and --input-scaling are for a PyTorch file, or code, as --model"
)


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
