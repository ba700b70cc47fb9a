"""The one exception for input that a user can mend."""


class InputError(ValueError):
    """Bad settings, data or files; the message names the received value and what is expected.

    The commands print it as one line and end with status 2.
    """
