"""Images a second under attack, beside PyTorch doing the same steps.

    python benchmarks/attack.py [--networks mnist_43 cifar_resnet20] [--steps 20] [--images 16]

Both take the same steps at the same random images: noise of the generalized Gaussian, gradient of
the mean softmax's log loss over 100 draws, a step, the projection, and 100 more draws for the
check. PyTorch's loop, eager and compiled, takes one image after the other, as the loops of this
field do; ours is `Attacker`. The balls are so small that nearly all images last to the last step,
and what counts are steps that were taken. Networks and noise are alike but not the same: weights
are random.
"""

import argparse
import math
import time
from collections.abc import Callable

import jax
import numpy as np
import torch
from torch import Tensor

from dsrs_jax import models, noise
from dsrs_jax.attack import Attack, Attacker, Target
from dsrs_jax.convert.pytorch_models import pytorch_model
from dsrs_jax.system.devices import use_all_cores

SIGMA, RADIUS = 0.5, 1e-3


class DigitsCNN(torch.nn.Sequential):
    """The digits' network, which no published file has."""

    def __init__(self) -> None:
        super().__init__(
            torch.nn.Conv2d(1, 32, 4, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
            torch.nn.Linear(512, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10),
        )  # fmt: skip


def ours(arch: str, attack: Attack, images: np.ndarray, law: noise.RadialLaw) -> float:
    """Images a second, in whole attacks; the first ones compile."""
    model = models.build(arch, seed=0)
    metadata = models.ModelMetadata(arch, "", images.shape[1:], 10)
    classifier = models.FunctionClassifier(
        models.as_pytree(model), metadata, models.input_scaling("mnist", "none")
    )
    drawn = np.asarray(law.sample(jax.random.key(0), 200)).reshape(-1, *images.shape[1:])
    targets = []
    for index, image in enumerate(images):
        # The class that it has under the noise: an image that is wrong is not attacked.
        label = int(np.bincount(models.forward(classifier, image + drawn).argmax(axis=1)).argmax())
        targets.append(Target(index, image, label, (RADIUS,)))
    attacker = Attacker(classifier, law, attack)
    list(attacker.attack_all(targets))
    clock = time.perf_counter()
    done = list(attacker.attack_all(targets))
    steps = sum(one.steps for outcome in done for one in outcome.tries)
    return steps / attack.steps / (time.perf_counter() - clock)


class PyTorchLoop:
    """The same attack in PyTorch."""

    def __init__(self, arch: str, attack: Attack, law: noise.RadialLaw, compiled: bool) -> None:
        self.attack, self.law = attack, law
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        network = DigitsCNN() if arch == "digits_cnn" else pytorch_model(arch)
        network = network.to(self.device).eval().requires_grad_(False)
        self.network: Callable[[Tensor], Tensor] = torch.compile(network) if compiled else network
        self.level = torch.distributions.Gamma(torch.tensor(float(law.shape)), torch.tensor(1.0))

    def noise(self, draws: int, image: Tensor) -> Tensor:
        direction = torch.randn(draws, *image.shape, device=self.device)
        length = float(self.law.scale) * self.level.sample((draws,)).sqrt().to(self.device)
        return direction * (length / direction.flatten(1).norm(dim=1))[:, None, None, None]

    def steps(self, image: Tensor) -> None:
        """All steps at one image."""
        attack = self.attack
        label = int(self.network(image[None]).argmax())
        offset = torch.zeros_like(image)
        for _ in range(attack.steps):
            at = (image + offset).requires_grad_()
            mean = self.network(at + self.noise(attack.samples, image)).softmax(-1).mean(0)
            gradient = torch.autograd.grad(-mean[label].log(), at)[0]
            offset = offset + attack.step_size * RADIUS * gradient / (gradient.norm() + 1e-30)
            offset = offset * (RADIUS / (offset.norm() + 1e-30)).clamp(max=1)
            with torch.no_grad():
                answers = self.network(image + offset + self.noise(attack.votes, image)).argmax(1)
                bool(torch.bincount(answers).argmax() != label)  # waited for, as a loop does

    def rate(self, images: np.ndarray) -> float:
        """Images a second."""
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(self.device)
        self.steps(pixels[0])
        clock = time.perf_counter()
        for image in pixels:
            self.steps(image)
        return len(pixels) / (time.perf_counter() - clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["digits_cnn", "mnist_43"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=16)
    settings = parser.parse_args()
    use_all_cores()
    place = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(f"JAX: {jax.devices()[0].device_kind}; PyTorch {torch.__version__}: {place}")
    print(f"images a second, {settings.steps} steps each (ratio: ours to the best PyTorch loop)")
    print("| network | PyTorch, eager | compiled | ours | ratio |")
    print("|---|--:|--:|--:|--:|")
    for arch in settings.networks:
        shape = models.architecture(arch).image_shape
        dimension = math.prod(shape)
        images = np.random.default_rng(0).random((settings.images, *shape), np.float32)
        law = noise.generalized_gaussian(dimension, SIGMA, 0.48 * dimension)
        attack = Attack(steps=settings.steps, recheck=0)
        loops = []
        for compiled in (False, True):
            loops.append(PyTorchLoop(arch, attack, law, compiled).rate(images))
            torch._dynamo.reset()
        own = ours(arch, attack, images, law)
        print(
            f"| {arch} | {loops[0]:,.2f} | {loops[1]:,.2f} | {own:,.2f} | {own / max(loops):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
