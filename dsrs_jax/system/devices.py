"""The devices that JAX has here; of the CPU one for each core."""

from __future__ import annotations

import contextlib
import os

import jax

from dsrs_jax.system.errors import UserError, first_line

_FLAG = "xla_force_host_platform_device_count"
# What in the environment says which devices there are.
_VARIABLES = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "CUDA_VISIBLE_DEVICES", "XLA_FLAGS")


def use_all_cores() -> None:
    """Makes every core a CPU device, unless the environment says how many there are.

    XLA runs a program that loops mostly in one thread, whatever the number of cores. To be called
    before JAX touches a device; later it changes nothing. Other kinds of devices are not affected.
    """
    said = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    if said != -1 or _FLAG in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # devices are in use already
        jax.config.update("jax_num_cpu_devices", _cores())


def require_devices() -> None:
    """Has JAX find its devices, which it otherwise does in the middle of the first computation.

    Raises:
        UserError: there are none, or not those that the environment asks for.
    """
    reason = ""
    try:
        if jax.devices():
            return
    except Exception as error:  # a RuntimeError, or for cuda without its plugin an AssertionError
        if str(error):
            reason = ": " + first_line(error).split(" (")[0].rstrip(".")  # and JAX's advice
    given = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    asked = f" with {' '.join(given)}" if given else ""
    advice = (
        "unset what asks for devices that are not here, or install JAX for them"
        if given
        else "JAX_PLATFORMS=cpu takes the CPU"
    )
    raise UserError(f"JAX finds no devices{asked}{reason}; {advice}")


def _cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
