"""A classifier whose answer to an image depends on the rest of the batch gets no certificate."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from dsrs_jax import certify_images, noise
from dsrs_jax.votes import DependsOnOthersError, Sampler, count_votes
from tests.support import commands

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 64, (10, 17, 17, 1)).astype(np.float32) / 255
LABELS = np.ones(len(IMAGES), np.int64)
LAW = noise.gaussian(289, 0.25)
TILE = 64  # of such images, on a CPU


def two(score: Array) -> Array:
    return jnp.stack([-score, score], axis=1)


def linear(images: Array) -> Array:
    return two(jnp.sum(images, axis=(1, 2, 3)) - 36.0)


def average(images: Array) -> Array:
    """Of the batch, which answers for all of it."""
    return jnp.broadcast_to(jnp.mean(linear(images), axis=0), (len(images), 2))


def brightest(images: Array) -> Array:
    """Takes a batch with one bright pixel for one of whole numbers up to 255."""
    return two(jnp.sum(images / jnp.where(jnp.max(images) > 1.0, 255.0, 1.0), axis=(1, 2, 3)) - 5)


def neighbours(images: Array) -> Array:
    return linear(images + 0.3 * jnp.roll(images, 1, axis=0))


def place(images: Array) -> Array:
    return linear(images) + two(0.3 * jnp.arange(len(images)) - 10.0)


def large_batches(images: Array) -> Array:
    return neighbours(images) if len(images) >= 8 else linear(images)


def infectious(images: Array) -> Array:
    """No finite logits for anyone where one pixel is too bright."""
    return linear(images) + jnp.where(jnp.max(images) > 1.0, jnp.nan, 0.0)


def masked(images: Array) -> Array:
    """Has a class that is never first, which says nothing of the usual size of a margin."""
    return jnp.concatenate([average(images), jnp.full((len(images), 1), -1e9)], axis=1)


def enormous(images: Array) -> Array:
    return jnp.sign(average(images)) * 2e38


def late(images: Array) -> Array:
    """Looks at the others where the first pixel is white, as it is in one image."""
    white = jnp.mean(images[:, 0, 0, 0]) > 0.9
    return jnp.where(white, average(images), linear(images))


def rounded(images: Array) -> Array:
    """Answers that others change only where they are nearly a tie."""
    return linear(images) + two(
        0.05 * jnp.tanh(jnp.mean(linear(images)[:, 1])) * jnp.ones(len(images))
    )


@pytest.mark.parametrize(
    "classifier",
    [average, brightest, neighbours, place, large_batches, infectious, masked, enormous],
)
@pytest.mark.parametrize("draws", ["sound", "float32"])
def test_who_looks_at_other_images_is_refused(classifier: Any, draws: str) -> None:
    with pytest.raises(DependsOnOthersError, match=r"not a function of one image.*") as error:
        certify_images(
            classifier, IMAGES, LABELS, sigma=0.25, n=2000, inside=[0.5], draws=draws, quiet=True
        )
    assert "\n" not in str(error.value)


def test_a_random_few_tiles_of_all_others_are_compared() -> None:
    images = IMAGES.copy()
    images[8, 0, 0] = 1.0  # which is none of those that are looked at in any case
    count_votes(late, images, LABELS, LAW, 5_000, seed=0)
    sampler, many = Sampler(late, seed=0), 2 * 700 * TILE
    with pytest.raises(DependsOnOthersError, match="draws of image 8 change"):
        sampler.start(images[8:9], LABELS[8:9], LAW, many, indices=[8])


def test_what_is_compared_follows_from_the_seed_and_changes_no_vote() -> None:
    def count(rows: list[int], **options: Any) -> Any:
        return count_votes(linear, IMAGES[rows], LABELS[rows], LAW, 3000, indices=rows, **options)

    whole = count([*range(10)], seed=3)
    assert whole.seed == 3 and whole.compared >= 9 * TILE // 2
    assert count([*range(10)], seed=3).compared == whole.compared
    again = count([*range(9, -1, -1)], seed=3)  # other images are the first ones
    np.testing.assert_array_equal(again.votes[::-1], whole.votes)
    plain = Sampler(linear, seed=3).start(IMAGES, LABELS, LAW, 3000).result()
    np.testing.assert_array_equal(plain.correct, whole.votes)
    # Nobody knows the seed beforehand, unless they give it.
    fresh = [count([0]) for _ in range(2)]
    assert fresh[0].seed != fresh[1].seed


def test_a_near_tie_is_none_of_its_faults() -> None:
    assert count_votes(rounded, IMAGES, LABELS, LAW, 2000, seed=0).compared


def test_a_refused_run_stays_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = tmp_path / "models.py", tmp_path / "run"
    code.write_text(
        "import jax.numpy as jnp\n\n\ndef average(images):\n"
        "    score = jnp.mean(images, axis=(1, 2)) * jnp.arange(1.0, 11.0)\n"
        "    return score - jnp.mean(score, axis=0)\n"
    )
    command = ["certify", "--model", f"{code}:average", "--input-scaling", "none", "--sigma", "0.5"]
    command += ["--n", "300", "--stop", "3", "--q-inside", "0.5", "--noise", "gaussian"]
    commands.refused(
        capsys, [*command, "--out", str(out)], "average is not a function of one image"
    )
    assert not (out / "certificates.csv").exists()
    commands.refused(capsys, [*command, "--out", str(out)], "found before; give another --out")


@pytest.mark.torch
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_module_that_looks_at_the_brightest_pixel_of_a_batch(backend: str) -> None:
    import torch

    class Brightest(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            scale = torch.where(images.max() > 1, 255.0, 1.0)
            score = (images / scale).sum(dim=(1, 2, 3)) - 5
            return torch.stack([-score, score], dim=1)

    with pytest.raises(DependsOnOthersError, match="Brightest is not a function of one image"):
        certify_images(
            Brightest().eval(), IMAGES, LABELS, sigma=0.25, n=2000, inside=[0.5],
            backend=backend, input_scaling="none", quiet=True,
        )  # fmt: skip
