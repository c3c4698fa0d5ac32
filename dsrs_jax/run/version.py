"""What a report of a fault needs to say: versions and devices."""

from __future__ import annotations

import importlib.metadata
import platform

_PACKAGES = (
    "dsrs_jax",
    "jax",
    "jaxlib",
    "flax",
    "orbax-checkpoint",
    "numpy",
    "scipy",
    "python-flint",
)


def version() -> str:
    """Versions of this package and of those that decide its numbers, and JAX's devices."""
    import jax

    from dsrs_jax.system.devices import require_devices, use_all_cores
    from dsrs_jax.system.errors import UserError

    use_all_cores()
    lines = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    lines.append(f"python {platform.python_version()}, {platform.platform()}")
    try:
        require_devices()
    except UserError as error:
        return "\n".join([*lines, f"devices: {error}"])
    devices = [device.device_kind for device in jax.devices()]
    counted = ", ".join(f"{devices.count(kind)} x {kind}" for kind in dict.fromkeys(devices))
    return "\n".join([*lines, f"devices: {counted}"])
