"""The errors that a user can mend."""


class UserError(Exception):
    """A mistake of the user's: one line that names what is wrong and says what to do.

    Scripts print the line alone and exit with status 2.
    """


class IncompleteError(Exception):
    """All that could be done is done and kept, and something is still missing: one line says what.

    Scripts print the line alone and exit with status 1.
    """
