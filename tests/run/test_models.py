"""Models that a user brings, of JAX: by `certify --model FILE.py:NAME` and by `certify_images`."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from certify_runs import rows_of
from commands import refused
from rich.console import Console

from dsrs_jax import certify_images, data, models
from dsrs_jax.models import Ensemble, FunctionClassifier, ModelMetadata, as_pytree, forward
from dsrs_jax.run import backend
from dsrs_jax.run.main import main
from dsrs_jax.system.errors import UserError

CODE = """
import jax.numpy as jnp
import numpy as np
from flax import nnx

W = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)

class Flax(nnx.Module):
    def __init__(self):
        self.dense = nnx.Linear(64, 10, rngs=nnx.Rngs(0))
        self.dense.kernel[...] = W
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    def __call__(self, images):
        return self.dense(self.dropout(images.reshape(len(images), -1)))

def linear(images): return images[..., :1].reshape(len(images), 64) @ W
def five(images): return linear(images)[:, :5]
def branches(images): return linear(images) if images.sum() > 0 else -linear(images)
def constant_shape(images): return jnp.zeros(4)
def nothing(): return None
def two(a, b): return a
"""
USER: dict[str, Any] = {}
exec(CODE, USER)
DIGITS = data.in_memory(data.load("digits"))
IMAGES, LABELS = DIGITS.images[:12], DIGITS.labels[:12]
SHORT: dict[str, Any] = {"sigma": 0.1, "n": 300, "inside": [0.5], "seed": 0, "quiet": True}


def words_of(folder: Path, name: str, labels: np.ndarray = LABELS, code: str = CODE) -> list[str]:
    """A command with the files that it needs."""
    (folder / "net.py").write_text(code)
    np.savez(folder / "a.npz", images=IMAGES, labels=labels)
    return ["certify", "--model", f"{folder / 'net.py'}:{name}", "--dataset", "npz",
            "--data-dir", str(folder / "a.npz"), "--seed", "0", "--sigma", "0.1", "--k", "4",
            "--n", "300", "--q-inside", "0.5", "--out", str(folder / "run")]  # fmt: skip


def test_the_call_and_the_command_give_the_same_votes_and_radii(tmp_path: Path) -> None:
    """The module has the function's weights, and its dropout is off."""
    labels = np.argmax(USER["linear"](IMAGES), axis=-1)  # its own answers: there are radii
    command = words_of(tmp_path, "Flax", labels)
    assert main([*command, "--seed", "3", "--input-scaling", "none"]) == 0
    rows = rows_of(tmp_path / "run")
    found, module = (
        certify_images(thing, IMAGES, labels, **{**SHORT, "seed": 3}, k=4, input_scaling="none")
        for thing in (USER["linear"], USER["Flax"]())
    )
    np.testing.assert_array_equal(found.votes.votes, module.votes.votes)
    assert found.votes.votes[:, 0].tolist() == [int(row["votes"]) for row in rows]
    assert np.sum(found.radius > 0.0) > 6 and len(set(found.radius)) > 3
    alone = found.neyman_pearson.radius
    for radii, column in ((found.radius, "radius_dsrs"), (alone, "radius_np")):
        # The file rounds down.
        written = [float(row[column]) for row in rows]
        np.testing.assert_allclose(radii, written, rtol=0, atol=2e-6)
        assert np.all(radii >= written)


def test_a_loaded_model_brings_its_noise_and_its_scaling() -> None:
    about = ModelMetadata("digits_cnn", "digits", (8, 8, 1), 10, 0.5, 28.0, 2.0)
    model = models.Classifier.from_model(models.build("digits_cnn", seed=0), about)
    law = certify_images(model, IMAGES, LABELS, n=100, quiet=True).votes.base
    assert (law.sigma, law.k) == (0.5, 28.0)
    with pytest.raises(UserError, match="a loaded model's own"):
        certify_images(model, IMAGES, LABELS, n=100, input_scaling="none")


def test_pixels_have_one_meaning_whatever_their_type_and_layout() -> None:
    levels = np.rint(255 * IMAGES).astype(np.uint8)
    expected = certify_images(USER["linear"], levels, LABELS, **SHORT)
    assert expected.votes.sound is not None and expected.votes.sound.grid == 255
    for pixels, layout in (
        (levels.astype(np.float64) / 255, "NHWC"),  # as a notebook divides
        (np.moveaxis(levels, -1, 1), "NCHW"),
    ):
        found = certify_images(USER["linear"], pixels, LABELS, layout=layout, **SHORT)
        np.testing.assert_array_equal(found.votes.votes, expected.votes.votes)
    off = np.random.default_rng(0).random((12, 8, 8, 1), np.float32)  # every grid
    found = certify_images(USER["linear"], off, LABELS, draws="float32", **SHORT)
    assert found.votes.sound is None
    with pytest.raises(UserError, match="no sound draws"):
        certify_images(USER["linear"], off, LABELS, **SHORT)


def test_without_second_laws_there_is_neyman_pearson_alone() -> None:
    found = certify_images(USER["linear"], IMAGES, LABELS, **{**SHORT, "inside": None})
    assert found.votes.names == ("p",)
    np.testing.assert_array_equal(found.radius, found.neyman_pearson.radius)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": LABELS[:5]}, r"\(5,\)"),
        ({"labels": LABELS - 1.5}, "its labels are not"),
        ({"images": IMAGES * 255}, r"beyond \[0, 1\]"),
        ({"images": IMAGES[0]}, r"\(8, 8, 1\)"),
        ({"images": np.moveaxis(IMAGES, -1, 1)}, "look like layout='NCHW'"),
        ({"sigma": None}, "does not say which noise"),
        ({"k": 99.0}, "k"),
        ({"n": 9}, "9 draws can certify nothing at alpha = 0.001, .*; give at least 10"),
        ({"n0": 0}, "n0 must be positive"),
        ({"alpha": 2.0}, "alpha"),
        ({"inside": [1.5]}, "quantile"),
        ({"layout": "HWC"}, "unknown layout 'HWC'; known: NHWC, NCHW"),
        ({"backend": "cuda"}, "unknown backend"),
        ({"dtype": "float16"}, "unknown dtype"),
        ({"draws": "all"}, "unknown draws"),
        ({"input_scaling": "often"}, "unknown input scaling"),
        ({"classifier": 3}, "cannot be called"),
        ({"classifier": lambda images: images.sum()}, r"logits \(3, classes\)"),
        ({"classifier": lambda images: jnp.zeros((7, 2))}, r"logits \(3, classes\)"),
        ({"classifier": lambda images: images.sum((1, 2))}, "1 number .* the two logits 0 and z"),
        ({"classifier": lambda images: images.sum((1, 2, 3))}, "1 number for an image"),
        ({"classifier": "nowhere.pt2"}, "nowhere.pt2"),
    ],
)
def test_a_wrong_argument_of_the_call_is_refused(change: dict[str, Any], said: str) -> None:
    arguments = {"classifier": USER["linear"], "images": IMAGES, "labels": LABELS, **SHORT}
    with pytest.raises(UserError, match=said) as caught:
        certify_images(**{**arguments, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "name", "words", "said"),
    [
        (CODE, "absent", "", "has no absent; it has"),
        (CODE, "nothing", "", "is None"),
        (CODE, "two", "", "needs 2 arguments"),
        (CODE, "five", "", "of 5 classes"),
        (CODE, "branches", "", "jax.lax.cond"),
        (CODE, "constant_shape", "", "logits (3, classes)"),
        (CODE, "linear", "--backend torch", "for a PyTorch module"),
        (CODE, "linear", "--output 0", "--output is for a PyTorch model"),
        (CODE, "linear", "--dtype bfloat16", "its own arithmetic"),
        (CODE, "linear", "--input-scaling timm", "no pretrained_cfg"),
        (CODE, "linear", "--input-scaling mean:1,2,3", "3 channels"),
        ("x = 1\ny = 1 / 0\n", "f", "", "line 2"),
        ("def f(:\n", "f", "", "line 1"),
        ("import nowhere\n", "f", "", "nowhere"),
    ],
)
def test_code_that_is_no_model_is_refused(
    code: str, name: str, words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, [*words_of(tmp_path, name, code=code), *words.split()], said)
    assert not (tmp_path / "run").exists()


def test_an_input_scaling_that_is_not_given_and_is_wrong_stops_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scaling = "mean:0.5;std:0.5"
    command = words_of(tmp_path, "linear", np.argmax(USER["linear"](2 * IMAGES - 1), axis=-1))
    refused(capsys, command, f"--input-scaling '{scaling}' 100%")
    assert not (tmp_path / "run").exists()
    assert main([*command, "--input-scaling", scaling]) == 0


def classifier_of(weights: np.ndarray, name: str = "it") -> FunctionClassifier:
    function = as_pytree(lambda images: images.reshape(len(images), -1) @ weights)
    metadata = ModelMetadata(name, "digits", (8, 8, 1), weights.shape[1], scaling="none")
    return FunctionClassifier(function, metadata, models.input_scaling("digits", "none"))


def test_an_ensemble_averages_probabilities_or_logits() -> None:
    weights = np.random.default_rng(0).normal(size=(2, 64, 10)).astype(np.float32)
    first, second = map(classifier_of, weights)
    logits = np.stack([IMAGES.reshape(12, -1) @ w for w in weights]).astype(np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    both = forward(Ensemble([first, second]), IMAGES)
    np.testing.assert_allclose(np.exp(both), chances.mean(axis=0), rtol=1e-4, atol=1e-9)
    both = forward(Ensemble([first, second], "logits"), IMAGES)
    np.testing.assert_allclose(both, logits.mean(axis=0), rtol=1e-4, atol=1e-4)
    assert Ensemble([first, second]).fingerprint() != Ensemble([second, first]).fingerprint()
    # What it closes over belongs to it.
    same = classifier_of(weights[0].copy())
    assert first.fingerprint() == same.fingerprint() != second.fingerprint()
    with pytest.raises(UserError, match="make no ensemble"):
        Ensemble([first, classifier_of(weights[0][:, :4])])


def test_a_long_run_takes_the_fastest_backend_and_prints_what_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speeds, made = {"torch": 100.0, "jax": 250.0}, list[str]()
    monkeypatch.setattr(backend, "_speed", lambda one: speeds[one.metadata.arch])

    def make(name: str) -> models.BaseClassifier:
        made.append(name)
        if name == "torch-compiled":
            raise UserError("no compiler")
        return classifier_of(np.zeros((64, 10), np.float32), name)

    every = ["torch", "torch-compiled", "jax"]
    measured = "Backend: jax, 250 draws a second (torch 100; torch-compiled: no compiler).\n"
    for wanted, earlier, draws, tried, told in (
        ("auto", None, 10**6, every, measured),
        ("auto", None, 10**3, ["torch"], "Backend: torch, 100 draws a second (a short run: "),
        ("auto", "torch", 10**6, ["torch"], ""),
        ("jax", "torch", 10**6, ["jax"], ""),
    ):
        made.clear()
        printed = io.StringIO()
        found = backend.choose(
            wanted, earlier, {name: partial(make, name) for name in every}, jax_alone=False,
            draws=draws, first=True, console=Console(file=printed, width=200),
        )  # fmt: skip
        assert found.metadata.arch == tried[-1]
        assert made == tried  # each once
        assert printed.getvalue().startswith(told) and bool(printed.getvalue()) == bool(told)
