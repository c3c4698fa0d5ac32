"""PyTorch modules and tensors of all kinds that people have, given to `certify_images`."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import numpy as np
import pytest
import torch
from networks import small_classifier
from torch import nn

from dsrs_jax import certify_images, data
from dsrs_jax.system.errors import UserError

pytestmark = pytest.mark.torch

DIGITS = data.in_memory(data.load("digits"))
IMAGES = DIGITS.images[:4]
# The network's own answers, so that there are votes.
LABELS = small_classifier()(torch.from_numpy(IMAGES).movedim(-1, 1)).argmax(dim=1).numpy()
CALL: dict[str, Any] = {
    "sigma": 0.1, "n": 200, "inside": [0.5], "quiet": True, "input_scaling": "none", "seed": 0,
}  # fmt: skip


def votes_of(module: Any, images: Any = IMAGES, labels: Any = LABELS, **words: Any) -> list[int]:
    table = certify_images(module, images, labels, **{**CALL, "backend": "torch", **words})
    return table.votes.votes[:, 0].tolist()


@pytest.fixture(scope="module")
def expected() -> list[int]:
    votes = votes_of(small_classifier())
    assert len(set(votes)) > 2
    return votes


class Of(nn.Module):
    """The small network inside another module."""

    def __init__(self, network: Any = None) -> None:
        super().__init__()
        self.network = small_classifier() if network is None else network
        self.eval()

    def forward(self, images: torch.Tensor) -> Any:
        return self.network(images)


class Watched(Of):
    """Counts its calls in a buffer, and keeps which objects were moved, switched or called."""

    touched: ClassVar[list[int]] = []

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise
        self.register_buffer("calls", torch.zeros(1))
        self.last = self.network[4].weight * 2  # with its history, which copy.deepcopy refuses
        self.flatten = nn.Flatten().train()
        self.network[0].weight.requires_grad_(False)

    def _apply(self, *arguments: Any, **words: Any) -> Any:
        self.touched.append(id(self))
        return super()._apply(*arguments, **words)

    def train(self, mode: bool = True) -> Any:
        self.touched.append(id(self))
        return super().train(mode)

    def forward(self, images: torch.Tensor) -> Any:
        self.touched.append(id(self))
        self.calls += 1
        if self.noise:
            images = images + self.noise * torch.rand_like(images)
        self.last = self.network(images)
        return self.last


def about(module: nn.Module) -> list[Any]:
    return [
        [(name, part.training) for name, part in module.named_modules()],
        [(name, one.requires_grad, one.stride(), one._version) for name, one in
         [*module.named_parameters(), *module.named_buffers()]],
        [(name, one.tolist()) for name, one in module.state_dict().items()],
    ]  # fmt: skip


def about_the_process() -> list[Any]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 (it is others' that must not move)
    return [
        torch.get_rng_state().tolist(), name, keys.tolist(), rest, torch.get_default_dtype(),
        torch.is_grad_enabled(), torch.get_num_threads(), logging.root.manager.disable,
        torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(), dict(jax.config.values),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("noise", "words", "said"),
    [
        (0.0, {}, None),
        (0.0, {"backend": "jax"}, "writes into its tensor"),
        (0.0, {"sigma": -1.0}, "sigma"),
        (1.0, {}, "differ from call to call"),
    ],
    ids=["a run", "no program of JAX", "a wrong argument", "no function of an image"],
)
def test_the_callers_module_and_process_stay_as_they_are(
    noise: float, words: dict[str, Any], said: str | None
) -> None:
    module = Watched(noise)
    last = module.last
    Watched.touched.clear()
    images = torch.from_numpy(IMAGES.copy()).requires_grad_()
    torch.set_default_dtype(torch.float64)
    logging.disable(logging.DEBUG)
    try:
        before = about(module), about_the_process()
        with pytest.raises(UserError, match=said) if said else contextlib.nullcontext():
            votes_of(module, images, **words)
        assert (about(module), about_the_process()) == before
    finally:
        logging.disable(logging.NOTSET)
        torch.set_default_dtype(torch.float32)
    assert id(module) not in Watched.touched and module.last is last
    assert images.requires_grad and np.array_equal(images.detach().numpy(), IMAGES)


@dataclasses.dataclass
class Result:
    hidden: Any
    logits: Any


class Records(Of):
    def forward(self, images: torch.Tensor) -> Any:
        return Result(images, self.network(images))


class InPlace(Of):
    def forward(self, images: torch.Tensor) -> Any:
        images.mul_(2.0)
        return self.network(images / 2)


class TakesGradients(Of):
    """As classifiers do that move an image before they answer."""

    def forward(self, images: torch.Tensor) -> Any:
        with torch.enable_grad():
            pixels = images.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.network(pixels).sum(), pixels)
        return self.network(images + 0 * gradient)


def program(**words: Any) -> Any:
    return torch.export.export(small_classifier(), (torch.zeros(2, 1, 8, 8),), **words)


def weight_norm() -> Any:
    module = small_classifier()
    nn.utils.weight_norm(module[4])
    module(torch.zeros(1, 1, 8, 8))
    return module


ANY = {"dynamic_shapes": ({0: torch.export.Dim.AUTO},)}
USABLE: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "a program": (lambda: program(**ANY), {}),
    "a program's module": (lambda: nn.Sequential(program(**ANY).module()), {"backend": "jax"}),
    "several devices": (lambda: Of(nn.DataParallel(small_classifier())), {}),
    "compiled": (lambda: torch.compile(small_classifier(), backend="eager"), {}),
    "TorchScript": (lambda: torch.jit.script(small_classifier()), {}),
    "weight norm": (weight_norm, {}),
    "a record": (Records, {"output": "logits"}),
    "in place": (InPlace, {"backend": "jax"}),
    "gradients": (TakesGradients, {}),
}


@pytest.mark.parametrize("kind", USABLE)
def test_a_module_of_another_kind_gives_the_networks_votes(kind: str, expected: list[int]) -> None:
    make, words = USABLE[kind]
    assert votes_of(make(), **words) == expected


class FirstLogit(Of):
    def forward(self, images: torch.Tensor) -> Any:
        return self.network(images)[:, :1]


class Squeezed(Of):
    def forward(self, images: torch.Tensor) -> Any:
        return self.network(images)[:, 0]


class Sparse(Of):
    def forward(self, images: torch.Tensor) -> Any:
        return self.network(images).to_sparse()


class Complex(Of):
    def forward(self, images: torch.Tensor) -> Any:
        return self.network(images) * 1j


class Counts(Of):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, images: torch.Tensor) -> Any:
        self.calls += 1
        return self.network(images) + self.calls


class CountsAlone(Counts):
    """Its logits do not depend on what it writes: PyTorch can run it."""

    def forward(self, images: torch.Tensor) -> Any:
        self.calls += 1
        return self.network(images)


class NewTensors(Of):
    def forward(self, images: torch.Tensor) -> Any:
        return self.network(images + torch.zeros(1, dtype=torch.float64))


class LeavesOut(Of):
    """Classes that cannot be; it draws random numbers, too, which these must not hide."""

    def forward(self, images: torch.Tensor) -> Any:
        logits = self.network(nn.functional.dropout(images, 0.5, True))
        return torch.where(torch.arange(10) < 5, logits, -torch.inf)


class SmallBatches(Of):
    def forward(self, images: torch.Tensor) -> Any:
        assert len(images) < 8, "small batches only"
        return self.network(images)


class Lazy(Of):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.LazyLinear(10)))


def with_(attribute: Any) -> nn.Module:
    module = Of()
    module.kept = attribute
    return module


def damaged() -> nn.Module:
    module = small_classifier()
    module[4].weight.data[0, 0] = torch.nan
    return module


def quantized() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(small_classifier(), {nn.Linear}, torch.qint8)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "frozen": (lambda: torch.jit.freeze(torch.jit.script(small_classifier())), "before torch.jit."),
    "quantized": (quantized, "quantized weights (4: Linear)"),
    "meta": (lambda: with_(nn.Buffer(torch.zeros(3, device="meta"))), "(kept: device meta)"),
    "lazy": (Lazy, "never loaded (network.1.weight: a lazy module)"),
    "NaN": (damaged, "its tensor 4.weight has 1 of 5,120 values that are NaN"),
    "half precision": (lambda: small_classifier().half(), "torch.float16, images are torch."),
    "bfloat16": (lambda: Of(small_classifier().bfloat16()), "call .float() on it"),
    "new tensors": (NewTensors, "dtype=images.dtype for new tensors"),
    "a generator": (lambda: with_(i for i in "a"), "cannot be copied (TypeError: cannot pickle"),
    "training": (lambda: Of().train(), "in training mode (network.1: BatchNorm2d)"),
    "one logit": (FirstLogit, "the two logits 0 and z"),
    "one logit without an axis": (Squeezed, "the two logits 0 and z"),
    "sparse": (Sparse, "torch.sparse_coo) for 3 images"),
    "complex": (Complex, "(torch.complex64, torch.strided)"),
    "a record": (Records, "Result of hidden, logits; say which are the logits: --output logits"),
    "writes": (Counts, "it writes into its tensor calls at each call"),
    "left out": (LeavesOut, "draws random numbers"),
    "no forward": (nn.Module, "define forward(images)"),
    "two images": (lambda: program().module(), "Dim.AUTO"),
    "small batches": (SmallBatches, "SmallBatches of images (1024, 1, 8, 8) failed"),
    "a class": (lambda: Of, "Of is a class; give an object of it"),
    "a method": (lambda: Of().forward, "give the module itself"),
    "a state dict": (lambda: Of().state_dict(), "cannot be called with images; a model is"),
    "a parameter": (lambda: nn.Parameter(torch.zeros(3)), "Parameter cannot be called"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_a_classifier_is_refused_in_one_line(kind: str) -> None:
    make, said = REFUSED[kind]
    with pytest.raises(UserError) as caught:
        votes_of(make(), backend="auto")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_jax_backend_names_what_it_cannot_follow() -> None:
    for module, said in (
        (torch.jit.script(small_classifier()), "torch.export cannot follow TorchScript"),
        (CountsAlone(), "it writes into its tensor 'module.calls' at each call"),
    ):
        with pytest.raises(UserError, match=said):
            votes_of(module, backend="jax")


TENSOR, CLASSES = torch.from_numpy(IMAGES), torch.from_numpy(LABELS)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (nn.Parameter(TENSOR.clone()), CLASSES),
        (TENSOR.bfloat16(), CLASSES),  # digits are sixteenths: nothing is rounded
        ([one.clone().requires_grad_() for one in TENSOR], list(CLASSES)),
        (torch._neg_view(-TENSOR), LABELS.tolist()),
        (jax.numpy.asarray(IMAGES, jax.numpy.bfloat16), jax.numpy.asarray(LABELS)),
    ],
    ids=["a parameter", "bfloat16", "lists", "a view", "arrays of JAX"],
)
def test_images_and_labels_are_tensors_of_any_kind(
    images: Any, labels: Any, expected: list[int]
) -> None:
    assert votes_of(small_classifier(), images, labels) == expected


@pytest.mark.parametrize(
    "images", [TENSOR.to_sparse(), TENSOR.to("meta"), [[1.0], [1.0, 2.0]]],
    ids=["sparse", "meta", "ragged"],
)  # fmt: skip
def test_images_that_are_no_array_are_refused_in_one_line(images: Any) -> None:
    with pytest.raises(UserError, match="the images are no plain array of numbers") as caught:
        votes_of(small_classifier(), images)
    assert "\n" not in str(caught.value)
