"""The CPU as JAX sees it: one device for each core."""

from __future__ import annotations

import contextlib
import os

import jax

_FLAG = "xla_force_host_platform_device_count"


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


def _cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
