"""What every script shares: a user's mistake is one line and exit code 2, never a traceback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from dsrs_jax.errors import UserError


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def exit_code(program: str, action: Callable[[], None], *, interrupted: str) -> int:
    """Runs a script's action: 0 done, 2 a mistake of the user's, 130 interrupted."""
    try:
        action()
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted; {interrupted}", file=sys.stderr)
        return 130
    return 0
