"""Ways a command ends other than well."""


class Interrupted(Exception):
    """Ctrl-C: exit code 130, and the message says what was kept."""


class NotOk(Exception):
    """The command did its work and the answer is no: exit code 1, nothing more to say."""
