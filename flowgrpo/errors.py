"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """Bad input. Its text is one sentence that says what is wrong and what to do; the command line exits with 2."""
