"""certify/reference.py without the run-time type checks that would take most of its time.

It defines functions within functions, which the tests' import hook checks anew at every call.
"""

import importlib.util
import sys
from pathlib import Path

import dsrs_jax

_FILE = Path(dsrs_jax.__file__).parent / "certify" / "reference.py"
_SPEC = importlib.util.spec_from_file_location("dsrs_reference_unchecked", _FILE)
assert _SPEC is not None and _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _MODULE
_SPEC.loader.exec_module(_MODULE)

integrals = _MODULE.integrals
solve = _MODULE.solve
