"""A PyTorch module as a base classifier: as it is, or exported and read into JAX."""

from __future__ import annotations

import contextlib
import dataclasses
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
from dsrs_jax.convert.torch_modules import call_failure, duplicate, evaluation_copy
from dsrs_jax.convert.user_code import failure
from dsrs_jax.models import (
    BaseClassifier,
    InputScaling,
    ModelMetadata,
    Replica,
    digest_of,
    refuse_too_few_classes,
)
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
        self._module = duplicate(module).to(memory_format=torch.channels_last)
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
        arrays = {name: _array(one, name) for name, one in self._module.state_dict().items()}
        classes = {type(one) for one in self._module.modules()}
        code = sorted(f"{one.__module__}.{one.__qualname__} {_code(one)}" for one in classes)
        # Of TorchScript and of traced graphs the class says nothing.
        made = (torch.jit.ScriptModule, torch.fx.GraphModule)
        code += [str(one.code) for one in self._module.modules() if isinstance(one, made)]
        about = f"{self.scaling} {self.dtype}"
        return digest_of(arrays, repr(self._module), self._source, about, *code)

    def replicas(self) -> list[Replica]:
        """One for each GPU that PyTorch can use, or one for the CPU with all its threads."""
        if not self._replicas:
            self._replicas = [self._replica(*pair) for pair in _devices()]
        return self._replicas

    def _replica(self, device: jax.Device, place: torch.device) -> Replica:
        module = self._module if place.type == "cpu" else duplicate(self._module).to(place)
        if self.backend == "torch-compiled":
            module = torch.compile(module, dynamic=False, options={"freezing": True})  # type: ignore[assignment]
        mean, deviation = (
            torch.tensor(numbers, dtype=torch.float32, device=place).reshape(1, -1, 1, 1)
            for numbers in (self.scaling.mean, self.scaling.deviation)
        )
        before: list[tuple[Array, Any]] = []

        def logits(images: Array) -> Array:
            # A module that takes gradients in its forward pass turns them on for itself.
            with torch.no_grad(), _precision(self.dtype, place):
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
                    answer = module(scaled).detach().float().contiguous()
                except torch.OutOfMemoryError as error:
                    raise UserError(
                        f"the device has not enough memory for {len(images)} draws at once in "
                        "PyTorch; use --backend jax, --dtype bfloat16 or a device with more memory"
                    ) from error
                except Exception as error:  # of a user's code, or of the compiler
                    raise UserError(self._failure(images, error)) from error
            if place.type == device.platform.replace("gpu", "cuda"):
                return jax.dlpack.from_dlpack(answer)
            return jax.device_put(answer.cpu().numpy(), device)

        return Replica(device, "cpu" if place.type == "cpu" else "gpu", logits)

    def _failure(self, images: Array, error: Exception) -> str:
        count, height, width, channels = images.shape
        if self.backend == "torch-compiled":
            what = failure(f"{self.metadata.arch} through torch.compile", error)
            return f"{what}; use --backend torch"
        shape = (count, channels, height, width)
        return call_failure(self._module, self.metadata.arch, shape, error)


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


def _array(tensor: Any, name: str) -> np.ndarray:
    if not isinstance(tensor, torch.Tensor):  # a module may keep other things there
        return np.frombuffer(repr(tensor).encode(), np.uint8)
    try:
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy(force=True)
    except (RuntimeError, TypeError) as error:  # sparse, or of a subclass with its own numbers
        raise UserError(f"the tensor {name} is no plain array: {first_line(error)}") from error


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
            if self.output.isdecimal():
                return found[int(self.output)]
            # A dictionary's entry, or a field of a named tuple or a dataclass.
            return found[self.output] if isinstance(found, dict) else getattr(found, self.output)
        return found


def prepared(
    module: torch.nn.Module,
    name: str,
    image_shape: tuple[int, int, int],
    scaling: InputScaling,
    output: str | None = None,
) -> tuple[torch.nn.Module, int]:
    """A copy of a module, with its logits as its only result, and the number of its classes.

    Args:
        module: a user's; it stays as it is.
        name: of it, for messages.
        image_shape: (H, W, C).
        scaling: of its input.
        output: which of its results are the logits (an index or a name), or "probabilities".

    Raises:
        UserError: in one line what to change: it cannot take such images, does not return logits,
            has fewer than two classes, or its answers to an image depend on chance or on other
            images.
    """
    copied = evaluation_copy(module, name)
    chosen = _Logits(copied, output).eval()
    height, width, channels = image_shape
    pixels = torch.from_numpy(
        np.random.default_rng(0).normal(0.5, 0.25, (3, channels, height, width)).astype(np.float32)
    )
    # By name: what the process has set as default type and device is not for images.
    mean, deviation = (
        torch.tensor(numbers, dtype=torch.float32, device="cpu").reshape(1, -1, 1, 1)
        for numbers in (scaling.mean, scaling.deviation)
    )
    pixels = (pixels - mean) / deviation
    before = _versions(copied)
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        whole = _answer(chosen, pixels.clone(), name)
        again = _answer(chosen, pixels.clone(), name)
        alone = _answer(chosen, pixels[:1].clone(), name)
    if torch.isnan(whole).any():
        raise UserError(f"the logits of {name} are NaN; {_reason_of_nan(copied)}")
    # Logits may be -inf: of classes that are left out.
    largest = float(torch.where(torch.isinf(whole), 0.0, whole).abs().max())
    if not torch.allclose(whole, again, rtol=0, atol=_TORN * largest, equal_nan=True):
        written = [key for key, version in _versions(copied).items() if version != before[key]]
        reason = "it draws random numbers (dropout that .eval() does not turn off?)"
        if written:
            reason = f"it writes into its tensor {written[0]} at each call"
        raise UserError(
            f"the logits of {name} differ from call to call: {reason}, and a vote must depend on "
            "the image alone"
        )
    if not torch.allclose(whole[:1], alone, rtol=0, atol=_TORN * largest, equal_nan=True):
        raise UserError(
            f"the logits of an image in {name} depend on the other images of the batch (batch norm "
            "without stored averages?), and a vote must depend on the image alone"
        )
    return chosen, int(whole.shape[1])


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _versions(module: torch.nn.Module) -> dict[str, int]:
    """How often each of its tensors was written into."""
    return {name: tensor._version for name, tensor in _tensors(module).items()}


def _reason_of_nan(module: torch.nn.Module) -> str:
    for name, tensor in _tensors(module).items():
        if unsound := int((~torch.isfinite(tensor)).sum()):
            what = "NaN" if torch.isnan(tensor).any() else "infinite"
            return f"its tensor {name} has {unsound:,} of {tensor.numel():,} values that are {what}"
    return "all its weights are numbers: does it divide by 0, or is --input-scaling another one?"


def _answer(module: _Logits, pixels: torch.Tensor, name: str) -> torch.Tensor:
    shape = tuple(pixels.shape)
    try:
        found = module(pixels)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        if module.output is None:
            raise UserError(call_failure(module, name, shape, error)) from error
        raise UserError(
            f"{name} has no output {module.output!r} ({type(error).__name__}: "
            f"{first_line(error)}); give another --output"
        ) from error
    except Exception as error:  # of a user's code
        raise UserError(call_failure(module, name, shape, error)) from error
    if not isinstance(found, torch.Tensor):
        raise UserError(_several(name, found))
    count, plain = len(pixels), found.layout is torch.strided and found.is_floating_point()
    if plain and found.shape == (count,):
        refuse_too_few_classes(name, 1)
    if not plain or found.ndim != 2 or len(found) != count:
        raise UserError(
            f"{name} returns a tensor of shape {tuple(found.shape)} ({found.dtype}, "
            f"{found.layout}) for {count} images, and not logits ({count}, classes); wrap it in a "
            "module that does"
        )
    refuse_too_few_classes(name, int(found.shape[1]))
    return found.detach()


def _several(name: str, found: Any) -> str:
    """What to say of a module that returns no tensor."""
    if isinstance(found, dict):
        known = [str(key) for key in found]
    elif dataclasses.is_dataclass(found):
        known = [field.name for field in dataclasses.fields(found)]
    elif isinstance(found, tuple) and hasattr(found, "_fields"):
        known = list(found._fields)
    elif isinstance(found, (tuple, list)):
        known = [str(number) for number in range(len(found))]
    else:
        return (
            f"{name} returns no tensor ({type(found).__name__}); wrap it in a module that returns "
            "logits"
        )
    which = "logits" if "logits" in known else known[0] if known else "0"
    return (
        f"{name} returns {type(found).__name__} of {', '.join(known[:8])}; say which are the "
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
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise UserError(f"torch.export cannot follow TorchScript, which {name} is or holds")
    height, width, channels = image_shape
    images = torch.zeros(2, channels, height, width, dtype=torch.float32, device="cpu")
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
        disabled = logging.root.manager.disable
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
            logging.disable(disabled)
    saved.seek(0)
    return saved
