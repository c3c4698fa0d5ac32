"""The errors that a user can fix."""


class UserError(Exception):
    """A mistake of the user's: one line that names what is wrong and says what to do.

    A command prints the line alone and exits with status 2.
    """


class IncompleteError(Exception):
    """All that could be done is done and kept, and something is still missing: one line says what.

    A command prints the line alone and exits with status 1.
    """
