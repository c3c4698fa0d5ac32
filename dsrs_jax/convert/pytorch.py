"""A PyTorch module as a base classifier: as it is, or exported and read into JAX."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import warnings
from typing import Any

import jax
import numpy as np
import torch
from jaxtyping import Array, Float, Float32

from dsrs_jax.convert.exported import read_program
from dsrs_jax.convert.program import program
from dsrs_jax.convert.program_classifier import PROBABILITIES, ProgramClassifier
from dsrs_jax.convert.user_code import failure
from dsrs_jax.models import BaseClassifier, InputScaling, ModelMetadata, Replica, digest_of
from dsrs_jax.system.errors import UserError, first_line

_LARGEST_BATCH = 65536  # of an exported program
_TORN = 1e-3  # of the largest logit: float32 sums in another order differ by less


class TorchClassifier(BaseClassifier):
    """A module in evaluation mode, run by PyTorch; `prepared` has looked at it.

    Args:
        module: from scaled images (N, C, H, W) to logits; a copy is kept.
        metadata: what is known of it.
        scaling: what is done to images in [0, 1] first.
        source: of the code that made it, for the fingerprint.
        dtype: "float32", or "bfloat16" for PyTorch's automatic mixed precision.
        compiled: whether `torch.compile` compiles it, with its weights as constants.
    """

    traceable = False

    def __init__(
        self,
        module: torch.nn.Module,
        metadata: ModelMetadata,
        scaling: InputScaling,
        *,
        source: str = "",
        dtype: str = "float32",
        compiled: bool = False,
    ) -> None:
        # A copy, since it is moved; its weights in the order in which the images come.
        self._module = copy.deepcopy(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.metadata, self.scaling, self.dtype = metadata, scaling, dtype
        self.backend = "torch-compiled" if compiled else "torch"
        self._source = source
        self._replicas: list[Replica] = []

    def __call__(self, images: Float[Array, "..."]) -> Float32[Array, "images classes"]:
        """Logits (N, classes) of images (N, H, W, C) in [0, 1], noise included."""
        replica = self.replicas()[0]
        return replica.logits(jax.device_put(images, replica.device))

    def fingerprint(self) -> str:
        """SHA-256 of the weights, of the module's classes, as text and as code, and the scaling."""
        arrays = {name: _array(one) for name, one in self._module.state_dict().items()}
        classes = {type(one) for one in self._module.modules()}
        code = sorted(f"{one.__module__}.{one.__qualname__} {_code(one)}" for one in classes)
        about = f"{self.scaling} {self.dtype}"
        return digest_of(arrays, repr(self._module), self._source, about, *code)

    def replicas(self) -> list[Replica]:
        """One for each GPU that PyTorch can use, or one for the CPU with all its threads."""
        if not self._replicas:
            self._replicas = [self._replica(*pair) for pair in _devices()]
        return self._replicas

    def _replica(self, device: jax.Device, place: torch.device) -> Replica:
        module = self._module if place.type == "cpu" else copy.deepcopy(self._module).to(place)
        if self.backend == "torch-compiled":
            module = torch.compile(module, dynamic=False, options={"freezing": True})  # type: ignore[assignment]
        mean, deviation = (
            torch.tensor(numbers, dtype=torch.float32, device=place).reshape(1, -1, 1, 1)
            for numbers in (self.scaling.mean, self.scaling.deviation)
        )
        before: list[tuple[Array, Any]] = []

        def logits(images: Array) -> Array:
            with torch.inference_mode(), _precision(self.dtype, place):
                pixels = torch.from_dlpack(images).to(place).permute(0, 3, 1, 2)
                scaled = (pixels - mean) / deviation  # a new tensor: a module may write into it
                if place.type == "cuda":
                    # JAX may use the images' memory again once nobody holds it, whether or not
                    # PyTorch has come to read it: held until the next call has waited for that.
                    for _, event in before:
                        event.synchronize()
                    event = torch.cuda.Event()
                    event.record(torch.cuda.current_stream(place))
                    before[:] = [(images, event)]
                try:
                    answer = module(scaled).float().contiguous()
                except torch.OutOfMemoryError as error:
                    raise UserError(
                        f"the device has not enough memory for {len(images)} draws at once in "
                        "PyTorch; use --backend jax, --dtype bfloat16 or a device with more memory"
                    ) from error
            if place.type == device.platform.replace("gpu", "cuda"):
                return jax.dlpack.from_dlpack(answer)
            return jax.device_put(answer.cpu().numpy(), device)

        return Replica(device, "cpu" if place.type == "cpu" else "gpu", logits)


def _devices() -> list[tuple[jax.Device, torch.device]]:
    """For each device that PyTorch computes on: where JAX draws the noise, and that device."""
    here = jax.local_devices()
    if not torch.cuda.is_available():
        return [(jax.local_devices(backend="cpu")[0], torch.device("cpu"))]
    if here[0].platform == "gpu":
        return [(one, torch.device("cuda", one.local_hardware_id or 0)) for one in here]
    count = torch.cuda.device_count()
    return [(here[0], torch.device("cuda", number)) for number in range(count)]


def on_an_accelerator_of_jax_alone() -> bool:
    """Whether JAX computes on a kind of device that PyTorch cannot use here."""
    return jax.local_devices()[0].platform != "cpu" and not torch.cuda.is_available()


def _precision(dtype: str, place: torch.device) -> contextlib.AbstractContextManager[Any]:
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(place.type, dtype=torch.bfloat16)


def _array(tensor: Any) -> np.ndarray:
    if not isinstance(tensor, torch.Tensor):  # a module may keep other things there
        return np.frombuffer(repr(tensor).encode(), np.uint8)
    plain = tensor.detach().cpu()
    return (plain.float() if plain.is_floating_point() else plain).numpy()


def _code(kind: type) -> str:
    """The source of a class; PyTorch's own goes by its version."""
    if kind.__module__.partition(".")[0] == "torch":
        return str(torch.__version__)
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # made in a notebook or by a program
        return ""


class _Logits(torch.nn.Module):
    """A module's logits, whichever of its outputs these are."""

    def __init__(self, module: torch.nn.Module, output: str | None) -> None:
        super().__init__()
        self.module, self.output = module, output

    def forward(self, images: torch.Tensor) -> Any:
        found = self.module(images)
        if self.output == PROBABILITIES:
            found = torch.log(torch.clamp(found, min=torch.finfo(torch.float32).tiny))
        elif self.output is not None:
            found = found[int(self.output) if self.output.isdecimal() else self.output]
        return found


def prepared(
    module: torch.nn.Module,
    name: str,
    image_shape: tuple[int, int, int],
    scaling: InputScaling,
    output: str | None = None,
) -> tuple[torch.nn.Module, int]:
    """The module on the CPU with its logits as its only result, and the number of its classes.

    Args:
        module: a user's.
        name: of it, for messages.
        image_shape: (H, W, C).
        scaling: of its input.
        output: which of its results are the logits (an index or a name), or "probabilities".

    Raises:
        UserError: in one line what to change: it cannot take such images, does not return logits,
            or its answers to an image depend on chance or on other images.
    """
    if any(one.is_meta for one in module.parameters()):
        raise UserError(f"{name} has weights that were never loaded (device meta)")
    module = module.cpu()
    for path, one in module.named_modules():
        if one.training and _has_mode(one):
            raise UserError(
                f"{name} is in training mode ({path or type(one).__name__}: {type(one).__name__}); "
                "call .eval() on it where it is made"
            )
    chosen = _Logits(module, output).eval()
    height, width, channels = image_shape
    pixels = torch.from_numpy(
        np.random.default_rng(0).normal(0.5, 0.25, (3, channels, height, width)).astype(np.float32)
    )
    mean, deviation = (
        torch.tensor(numbers).reshape(1, -1, 1, 1) for numbers in (scaling.mean, scaling.deviation)
    )
    pixels = (pixels - mean) / deviation
    with torch.no_grad():
        whole = _answer(chosen, pixels.clone(), name)
        again = _answer(chosen, pixels.clone(), name)
        alone = _answer(chosen, pixels[:1].clone(), name)
    largest = float(whole.abs().max())
    if not torch.allclose(whole, again, rtol=0, atol=_TORN * largest, equal_nan=True):
        raise UserError(
            f"the logits of {name} differ from call to call: it draws random numbers (dropout that "
            ".eval() does not turn off?), and a vote must depend on the image alone"
        )
    if not torch.allclose(whole[:1], alone, rtol=0, atol=_TORN * largest, equal_nan=True):
        raise UserError(
            f"the logits of an image in {name} depend on the other images of the batch (batch norm "
            "without stored averages?), and a vote must depend on the image alone"
        )
    return chosen, int(whole.shape[1])


def _has_mode(module: torch.nn.Module) -> bool:
    """Whether it does something else in training mode."""
    if isinstance(module, torch.nn.modules.dropout._DropoutNd):
        return module.p > 0
    batch_norm = isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    return batch_norm or "drop" in type(module).__name__.lower()


def _answer(module: _Logits, pixels: torch.Tensor, name: str) -> torch.Tensor:
    shape = tuple(pixels.shape)
    try:
        found = module(pixels)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        if module.output is None:
            raise UserError(_refusal(name, shape, error)) from error
        raise UserError(
            f"{name} has no output {module.output!r} ({type(error).__name__}: "
            f"{first_line(error)}); give another --output"
        ) from error
    except Exception as error:  # of a user's code
        raise UserError(_refusal(name, shape, error)) from error
    if not isinstance(found, torch.Tensor):
        raise UserError(_several(name, found))
    if found.ndim != 2 or len(found) != len(pixels) or not found.is_floating_point():
        raise UserError(
            f"{name} returns a tensor of shape {tuple(found.shape)} ({found.dtype}) for "
            f"{len(pixels)} images, and not logits ({len(pixels)}, classes); wrap it in a module "
            "that does"
        )
    return found


def _refusal(name: str, shape: tuple[int, ...], error: Exception) -> str:
    failed = failure(f"{name} of images {shape}", error)
    return f"{failed}; does it take images of this size, (N, C, H, W)?"


def _several(name: str, found: Any) -> str:
    """What to say of a module that returns no tensor."""
    if isinstance(found, dict):
        known = [str(key) for key in found]
    elif isinstance(found, (tuple, list)):
        known = [str(number) for number in range(len(found))]
    else:
        return f"{name} returns a {type(found).__name__}; wrap it in a module that returns logits"
    which = "logits" if "logits" in known else known[0] if known else "0"
    return (
        f"{name} returns a {type(found).__name__} of {', '.join(known[:8])}; say which are the "
        f"logits: --output {which}"
    )


def in_jax(
    module: torch.nn.Module,
    name: str,
    metadata: ModelMetadata,
    scaling: InputScaling,
    dtype: str = "float32",
) -> ProgramClassifier:
    """A `prepared` module, exported by PyTorch and read into JAX.

    Raises:
        UserError: `torch.export` cannot follow it, in one line.
        MissingOperatorError: JAX lacks one of its operators (`convert.program`).
    """
    graph, weights = read_program(exported(module, name, metadata.image_shape))
    return ProgramClassifier(program(graph, weights, dtype), metadata, scaling)


def exported(module: torch.nn.Module, name: str, image_shape: tuple[int, int, int]) -> io.BytesIO:
    """The module as `torch.export.save` writes it, in core ATen operators, for any batch."""
    height, width, channels = image_shape
    images = torch.zeros(2, channels, height, width)
    batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)

    def export(shapes: Any) -> Any:
        return torch.export.export(module, (images,), dynamic_shapes=shapes)

    # It prints whole programs before it raises.
    heard = io.StringIO()
    with (
        warnings.catch_warnings(),
        torch.no_grad(),
        contextlib.redirect_stdout(heard),
        contextlib.redirect_stderr(heard),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            try:
                found = export(({0: batch},))
            except Exception:  # of many kinds: its code fixes the batch, which is no fault
                found = export(None)
            found = found.run_decompositions()
            saved = io.BytesIO()
            torch.export.save(found, saved)
        except Exception as error:  # of many kinds
            raise UserError(
                f"torch.export cannot follow {name} (control flow that depends on the data?): "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
        finally:
            logging.disable(logging.NOTSET)
    saved.seek(0)
    return saved
