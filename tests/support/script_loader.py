"""The scripts as modules, so that tests call their `main` as a shell would."""

import importlib.util
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load_script(name: str) -> ModuleType:
    """The script `name` of the folder scripts/, for example "certify.py"."""
    file = SCRIPTS / name
    specification = importlib.util.spec_from_file_location(f"{file.stem}_script", file)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
