"""The errors that a user can fix."""


class UserError(Exception):
    """A mistake of the user's: one line that names what is wrong and says what to do.

    A command prints the line alone and exits with status 2.
    """


class IncompleteError(Exception):
    """All that could be done is done and kept, and something is still missing: one line says what.

    A command prints the line alone and exits with status 1.
    """


def first_line(error: BaseException, most: int = 200) -> str:
    """What an error says, at most so many characters of one line; its kind if it says nothing."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:most]
