"""JAX's persistent compilation cache: what one run compiled, the next one reads."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import jax

from dsrs_jax.system.files import cache_folder

_WORTH_KEEPING = 0.1  # seconds of compilation
_CPU_FACTS = ("model name", "flags", "Features", "CPU implementer", "CPU part")


def keep_compiled(folder: Path | None = None) -> Path:
    """Turns the cache on for this process, and returns its folder.

    Programs for a CPU use that CPU's instructions: each kind of CPU has a folder of its own, so a
    home that several machines share is safe. The folder may be deleted at any time.

    Args:
        folder: default: `compiled` in the user's cache folder (`cache_folder`).
    """
    folder = (folder or cache_folder() / "compiled") / _cpu()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)
    return folder


def _cpu() -> str:
    """The kind of this machine's CPU, as a name of a folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = sorted({line for line in lines if line.startswith(_CPU_FACTS)})
    except OSError:  # no Linux
        facts = [platform.processor()]
    digest = hashlib.sha256("\n".join([platform.machine(), *facts]).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:12]}"
