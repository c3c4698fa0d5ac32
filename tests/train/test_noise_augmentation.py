import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dsrs_jax import data, models
from dsrs_jax.errors import UserError
from dsrs_jax.noise import gaussian, generalized_gaussian
from dsrs_jax.train import train

LAW = generalized_gaussian(64, 0.25, 24.0)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train")


def noisy_accuracy(model, dataset, law, draws=20):
    """Share of right answers, `draws` noisy versions of each image, noise not seen in training."""
    noise = law.sample(jax.random.key(10**6), draws * len(dataset))
    images = np.repeat(dataset.images, draws, axis=0) + np.asarray(noise).reshape(
        -1, *dataset.image_shape
    )
    answers = np.argmax(model(jnp.asarray(images)), axis=1)
    return np.mean(answers == np.repeat(dataset.labels, draws))


def test_a_trained_model_is_right_under_noise_on_images_it_has_not_seen(digits):
    test = data.load("digits", "test")
    untrained = noisy_accuracy(models.build("digits_cnn", 0), test, LAW)
    model = train(digits, "digits_cnn", LAW, epochs=30, seed=0)
    assert untrained < 0.3
    assert noisy_accuracy(model, test, LAW) > 0.9


def test_noise_in_training_is_what_helps_under_noise(digits):
    test, strong = data.load("digits", "test"), gaussian(64, 0.5)
    with_noise = train(digits, "digits_cnn", strong, epochs=30, seed=0)
    almost_without = train(digits, "digits_cnn", gaussian(64, 1e-3), epochs=30, seed=0)
    gain = noisy_accuracy(with_noise, test, strong) - noisy_accuracy(almost_without, test, strong)
    assert gain > 0.05


def test_the_seed_decides_everything(digits):
    first, again, other = (
        jax.tree.leaves(nnx.state(train(digits, "digits_cnn", LAW, epochs=2, seed=seed)))
        for seed in (3, 3, 4)
    )
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_every_epoch_is_reported_and_the_loss_falls(digits):
    seen = []
    train(
        digits,
        "digits_cnn",
        LAW,
        epochs=8,
        seed=0,
        on_epoch=lambda epoch, info: seen.append((epoch, info)),
    )
    assert [epoch for epoch, _ in seen] == list(range(8))
    losses, accuracies = zip(*(info for _, info in seen), strict=True)
    assert losses[-1] < 0.5 * losses[0] and 0 < accuracies[0] < accuracies[-1] <= 1


def test_the_trained_model_can_be_saved_and_read(digits, tmp_path):
    model = train(digits, "digits_cnn", LAW, epochs=1, seed=0)
    metadata = models.ModelMetadata(
        "digits_cnn", "digits", (8, 8, 1), 10, LAW.sigma, LAW.k, LAW.eta
    )
    models.save_model(tmp_path / "model", model, metadata)
    images = jnp.asarray(digits.images[:5])
    loaded = models.load_model(tmp_path / "model")
    np.testing.assert_array_equal(loaded(images), model(images))


def test_the_step_is_compiled_once(digits, caplog):
    """1,437 images leave a ragged rest at batch 128; compilations are read from JAX's own log."""
    with jax.log_compiles(), caplog.at_level("WARNING"):
        train(digits, "digits_cnn", LAW, epochs=3, seed=0)
    compiled = [r for r in caplog.messages if r.startswith("Compiling jit(step)")]
    assert len(compiled) == 1


def test_a_set_smaller_than_the_batch_still_trains(digits):
    few = data.Dataset("digits", "train", digits.images[:50], digits.labels[:50], 10)
    before = noisy_accuracy(models.build("digits_cnn", 0), few, LAW)
    assert noisy_accuracy(train(few, "digits_cnn", LAW, epochs=30), few, LAW) > before + 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "vit"}, "unknown architecture 'vit'; known: digits_cnn, mnist_43"),
        ({"arch": "mnist_43"}, "mnist_43 takes images (28, 28, 1)"),
        ({"law": gaussian(784, 0.5)}, "the noise has dimension 784"),
        ({"epochs": 0}, "epochs must be positive"),
        ({"batch": -1}, "batch must be positive"),
        ({"learning_rate": float("nan")}, "learning rate must be positive"),
    ],
)
def test_mistakes_are_told_in_one_line(digits, changes, message):
    arguments = {"arch": "digits_cnn", "law": LAW} | changes
    with pytest.raises(UserError) as caught:
        train(digits, arguments.pop("arch"), arguments.pop("law"), **arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)
