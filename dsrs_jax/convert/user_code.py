"""Imports what a user's own code makes: `FILE.py:NAME` or `package.module:NAME`.

This is the user's program, and it is run; a file of somebody else's should be one of those that are
only read (`convert.exported`, `convert.checkpoint`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from dsrs_jax.system.errors import UserError, first_line


class Made(NamedTuple):
    """What the code made, and where it stands.

    Attributes:
        thing: a PyTorch module, a Flax module, or a function of images.
        name: "net.py:model".
        sha256: of the file, in hex.
    """

    thing: Any
    name: str
    sha256: str


def is_user_code(text: str) -> bool:
    """Whether a model's name is of this kind, and no file or folder has that very name."""
    place, _, name = text.rpartition(":")
    code = place.endswith(".py") or all(part.isidentifier() for part in place.split("."))
    return code and name.isidentifier() and not os.path.exists(text)


def import_from(text: str) -> Made:
    """Imports the code and makes what NAME means.

    A module is taken as it is; a class, or a function that needs no argument, is called; another
    function is taken to be one of images.

    Raises:
        UserError: in one line with the line of the user's file: the import or the call fails, or
            NAME is not there or of another kind.
    """
    place, _, name = text.rpartition(":")
    module = _imported(place)
    shown = f"{Path(place).name if place.endswith('.py') else place}:{name}"
    if not hasattr(module, name):
        known = [other for other in vars(module) if not other.startswith("_")]
        raise UserError(f"{place} has no {name}; it has {', '.join(known[:20]) or 'nothing'}")
    thing = getattr(module, name)
    if inspect.isclass(thing) or (inspect.isfunction(thing) and _needed(thing, name) == 0):
        thing = _run(place, f"{name}()", thing)
    elif inspect.isfunction(thing) and _needed(thing, name) > 1:
        raise UserError(
            f"{place}: {name} needs {_needed(thing, name)} arguments; a function that makes a "
            "model needs none, one that is a model takes images alone"
        )
    if thing is None or isinstance(thing, (dict, list, str, int)) or inspect.ismodule(thing):
        raise UserError(
            f"{place}: {name} is {_a(thing)}, and not a PyTorch module, a Flax module or a "
            "function of images"
        )
    file = getattr(module, "__file__", None)
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    return Made(thing, shown, digest)


def _a(thing: Any) -> str:
    return "None" if thing is None else f"a {type(thing).__name__}"


def _needed(function: Callable[..., Any], name: str) -> int:
    """How many arguments a function cannot do without."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(one.default is inspect.Parameter.empty and one.kind in kinds for one in parameters)


def _imported(place: str) -> ModuleType:
    if not place.endswith(".py"):
        _first_on_the_path(Path.cwd())
        return _run(place, "import", lambda: importlib.import_module(place))
    file = Path(place).absolute()
    if not file.is_file():
        raise UserError(f"no such file: {place}")
    spec = importlib.util.spec_from_file_location(f"_model_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _first_on_the_path(file.parent)  # what lies beside it can be imported, as by `python FILE.py`
    sys.modules[spec.name] = module  # dataclasses and pickles look there
    loader = spec.loader
    _run(place, "import", lambda: loader.exec_module(module))
    return module


def _first_on_the_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _run(place: str, what: str, function: Callable[[], Any]) -> Any:
    """Calls the user's code; a mistake in it is told with its line, not as one of ours."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise UserError(failure(f"{place}: {what}", error, place)) from error


def failure(what: str, error: BaseException, place: str = "") -> str:
    """One line about an error in a user's code, with the innermost line of their file."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if place and Path(frame.filename).name == Path(place).name
    ]
    number = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = f" at line {number}" if number else ""
    text = f"{what} failed{where} ({type(error).__name__}: {first_line(error)})"
    absent = any(word in str(error) for word in ("CUDA", "NVIDIA", "cuda"))
    if absent and "two devices" not in str(error):
        text += "; PyTorch has no such device here: use map_location='cpu' and leave .cuda() out"
    return text
