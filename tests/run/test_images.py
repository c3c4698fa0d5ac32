"""`certify_images`: the votes of the command, for every kind of classifier, and plain refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from certify_runs import rows_of
from flax import nnx
from networks import small_classifier

import dsrs_jax
from dsrs_jax import certify_images, data, models
from dsrs_jax.convert.pytorch import exported
from dsrs_jax.run.main import main

DIGITS = data.in_memory(data.load("digits"))
IMAGES, LABELS = DIGITS.images[:12], DIGITS.labels[:12]
SHORT: dict[str, Any] = {"sigma": 0.3, "n": 300, "quiet": True}
CODE = """
import numpy as np
from networks import small_classifier
W = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
network = small_classifier()
def linear(images): return images.reshape(len(images), -1) @ W
"""
W = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)


def linear(images: Any) -> Any:
    return images.reshape(len(images), -1) @ W


@pytest.mark.parametrize(("name", "thing"), [("network", small_classifier()), ("linear", linear)])
def test_the_votes_and_radii_are_those_of_the_command(
    name: str, thing: Any, tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text(CODE)
    # Its own answers, so that there are radii.
    logits = (
        linear(IMAGES)
        if name == "linear"
        else thing(torch.from_numpy(IMAGES).movedim(-1, 1)).detach().numpy()
    )
    labels = np.argmax(logits, axis=-1)
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=labels)
    words = ["--model", f"{tmp_path / 'net.py'}:{name}", "--input-scaling", "none", "--seed", "3",
             "--dataset", "npz", "--data-dir", str(tmp_path / "a.npz"), "--draws", "sound",
             "--sigma", "0.1", "--k", "4", "--n", "300",
             "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(["certify", *words]) == 0
    rows = rows_of(tmp_path / "run")
    found = certify_images(
        thing, IMAGES, labels, sigma=0.1, k=4, n=300, seed=3, input_scaling="none", quiet=True
    )
    assert found.votes.votes[:, 0].tolist() == [int(row["votes"]) for row in rows]
    assert np.sum(found.radius > 0.0) > 6 and len(set(found.radius)) > 3
    alone = found.neyman_pearson.radius
    for radii, column in ((found.radius, "radius_dsrs"), (alone, "radius_np")):
        # The file rounds down.
        written = [float(row[column]) for row in rows]
        np.testing.assert_allclose(radii, written, rtol=0, atol=2e-6)
        assert np.all(radii >= written)


def test_one_network_in_all_its_forms_gives_one_result(tmp_path: Path) -> None:
    network, file = small_classifier(), tmp_path / "m.pt2"
    file.write_bytes(exported(network, "it", (8, 8, 1)).getvalue())
    levels = np.rint(255 * IMAGES).astype(np.uint8)
    images = levels.astype(np.float64) / 255  # as a notebook divides
    expected = certify_images(network, levels, LABELS, **SHORT)
    assert expected.votes.sound is not None and expected.votes.sound.grid == 255
    for thing, pixels, words in (
        (network, images, {}),
        (network, np.moveaxis(levels, -1, 1), {"layout": "NCHW"}),
        (network, levels, {"backend": "jax"}),
        (file, levels, {}),
        (str(file), levels, {"output": "0"}),
    ):
        found = certify_images(thing, pixels, LABELS, **SHORT, **words)
        np.testing.assert_array_equal(found.votes.votes, expected.votes.votes)
        np.testing.assert_array_equal(found.radius, expected.radius)


class Flax(nnx.Module):
    def __init__(self) -> None:
        self.dense = nnx.Linear(64, 10, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.dense(self.dropout(images.reshape(len(images), -1)))


def test_a_flax_module_is_certified_in_inference_mode() -> None:
    module = Flax()
    kernel, bias = module.dense.kernel[...], module.dense.bias[...]
    found = certify_images(module, IMAGES, LABELS, **SHORT)
    same = certify_images(
        lambda images: images.reshape(len(images), -1) @ kernel + bias[None],
        IMAGES,
        LABELS,
        **SHORT,
    )
    np.testing.assert_array_equal(found.votes.votes, same.votes.votes)


def test_a_loaded_model_brings_its_noise_and_its_scaling() -> None:
    about = models.ModelMetadata("digits_cnn", "digits", (8, 8, 1), 10, 0.5, 28.0, 2.0)
    model = models.Classifier.from_model(models.build("digits_cnn", seed=0), about)
    found = certify_images(model, IMAGES, LABELS, n=100, quiet=True)
    law = found.votes.base
    assert (law.sigma, law.k) == (0.5, 28.0)
    with pytest.raises(dsrs_jax.UserError, match="a loaded model's own"):
        certify_images(model, IMAGES, LABELS, n=100, input_scaling="none")


def test_images_off_every_grid_get_draws_that_no_proof_covers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    found = certify_images(linear, images, [0, 1, 2], sigma=0.3, n=100)
    assert found.votes.sound is None and "no proof covers" in capsys.readouterr().out
    with pytest.raises(dsrs_jax.UserError, match="no sound draws"):
        certify_images(linear, images, [0, 1, 2], draws="sound", **SHORT)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": LABELS[:5]}, r"\(5,\)"),
        ({"labels": LABELS - 1.5}, "its labels are not"),
        ({"images": IMAGES * 255}, r"beyond \[0, 1\]"),
        ({"images": IMAGES[0]}, r"\(8, 8, 1\)"),
        ({"images": np.moveaxis(IMAGES, -1, 1)}, "look like layout='NCHW'"),
        ({"sigma": None}, "does not say which noise"),
        ({"sigma": -1.0}, "sigma"),
        ({"k": 99.0}, "k"),
        ({"n": 0}, "must be positive"),
        ({"alpha": 2.0}, "alpha"),
        ({"inside": [1.5]}, "quantile"),
        ({"layout": "HWC"}, "unknown layout 'HWC'; known: NHWC, NCHW"),
        ({"backend": "cuda"}, "unknown backend"),
        ({"dtype": "float16"}, "unknown dtype"),
        ({"draws": "all"}, "unknown draws"),
        ({"input_scaling": "often"}, "unknown input scaling"),
        ({"classifier": 3}, "cannot be called"),
        ({"classifier": small_classifier(classes=3), "labels": np.full(12, 7)}, "of 3 classes"),
        ({"classifier": small_classifier().train()}, r"call \.eval\(\)"),
        ({"classifier": lambda images: images.sum()}, r"logits \(3, classes\)"),
        ({"classifier": lambda images: jnp.zeros((7, 2))}, r"logits \(3, classes\)"),
        ({"classifier": "nowhere.pt2"}, "nowhere.pt2"),
        ({"classifier": "nowhere.py:model"}, "no such file"),
    ],
)
def test_a_wrong_argument_is_told_in_one_line(change: dict[str, Any], said: str) -> None:
    arguments = {"classifier": small_classifier(), "images": IMAGES, "labels": LABELS, **SHORT}
    with pytest.raises(dsrs_jax.UserError, match=said) as caught:
        certify_images(**{**arguments, **change})
    assert "\n" not in str(caught.value)


def test_a_function_of_pytorch_is_told_to_be_a_module() -> None:
    function: Callable[[Any], Any] = torch.nn.functional.relu
    with pytest.raises(dsrs_jax.UserError, match=r"torch\.nn\.Module"):
        certify_images(function, IMAGES, LABELS, **SHORT)
