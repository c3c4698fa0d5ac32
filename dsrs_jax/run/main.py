"""The command: dsrs-jax certify, predict, train, prove and the others (`COMMANDS`)."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from dsrs_jax.system.errors import IncompleteError, UserError
from dsrs_jax.system.output import OutputError
from dsrs_jax.system.signals import exit_code

PROGRAM = "dsrs-jax"


class _Command(NamedTuple):
    what: str
    interrupted: str


_NOTHING_WRITTEN = "nothing was written"

# A new command: a module with a docstring, `Settings` and `run(settings, words)`, and a line here.
COMMANDS = {
    "certify": _Command(
        "certified radii for a data set and a model", "the same command continues this run"
    ),
    "attack": _Command(
        "attacked accuracy: upper bounds beside certified ones",
        "the same command continues this attack",
    ),
    "predict": _Command(
        "classes of images under noise, or abstentions", "--out has what was counted"
    ),
    "published": _Command("certified radii from published votes, in seconds", _NOTHING_WRITTEN),
    "train": _Command("trains a base classifier under noise", "--resume continues it"),
    "convert": _Command("makes a model of a PyTorch checkpoint", _NOTHING_WRITTEN),
    "report": _Command(
        "tables and figures of runs, or of published data", "what was written stays"
    ),
    "study": _Command(
        "the paper's studies, as tables and pictures", "studies that were done are written"
    ),
    "audit": _Command("asks of a log of radii which votes allow them", _NOTHING_WRITTEN),
    "prove": _Command("proves finished certificates, without JAX or the model", "nothing is lost"),
}

_USAGE = f"""\
usage: {PROGRAM} COMMAND [options]
       {PROGRAM} COMMAND --help
       {PROGRAM} --version

Certified robustness of smoothed classifiers by double sampling.

commands:
""" + "".join(f"  {name:<11} {command.what}\n" for name, command in COMMANDS.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Returns:
        The exit code: 0 done, 1 done but for what one line names (unreadable images, a lost
        host, radii not proved), 2 a mistake of the user's, and others on signals (`exit_code`).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in COMMANDS:
        return exit_code(PROGRAM, lambda: _without_command(words), interrupted=_NOTHING_WRITTEN)
    name, *rest = words
    command = COMMANDS[name]
    program = f"{PROGRAM} {name}"

    def action() -> int | None:
        from dsrs_jax.system.options import parse

        module: Any = importlib.import_module(f"dsrs_jax.run.{name}")
        try:
            settings = parse(
                module.Settings, rest, program=program, description=module.__doc__ or ""
            )
        except SystemExit as stop:  # --help, or a mistake that was told
            return int(stop.code or 0)
        try:
            return module.run(settings, rest)
        except (UserError, IncompleteError, OutputError):
            raise
        except Exception:
            if "jax" in sys.modules:  # which names no devices in the error of whatever needs them
                from dsrs_jax.system.devices import require_devices

                require_devices()
            raise

    return exit_code(program, action, interrupted=command.interrupted)


def _without_command(words: list[str]) -> int:
    """The exit code of a command line that names none of the commands."""
    if words[:1] in ([], ["--help"], ["-h"]):
        print(_USAGE, end="")
        return 0 if words else 2
    if words[0] == "--version":
        from dsrs_jax.run.version import version

        print(version())
        return 0
    raise UserError(f"no command {words[0]!r}; known: {', '.join(COMMANDS)}")


def entry() -> None:
    """What `dsrs-jax` and scripts/*.py call: ends the process."""
    code = main(_words())
    if code:
        if "multiprocessing.pool" in sys.modules:
            # A pool that was interrupted still has semaphores, of which Python would warn.
            gc.collect()
        # Neither what the devices still work on nor a compilation is waited for.
        for stream in (sys.stdout, sys.stderr):
            # What cannot be written was told (`exit_code`); None: closed from the beginning.
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.flush()
        os._exit(code)


def _words() -> list[str]:
    """The command line; scripts/NAME.py is the command NAME."""
    name = os.path.basename(sys.argv[0])
    own = [name.removesuffix(".py")] if name.endswith(".py") and name != "__main__.py" else []
    return own + sys.argv[1:]
