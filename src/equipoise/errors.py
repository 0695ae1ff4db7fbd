"""Errors a user can mend. The command line prints them as one line and exits with code 2."""


class EquipoiseError(Exception):
    """A mistake in what was asked for: says what is wrong, where, and what to do."""


class SteeringError(EquipoiseError):
    """A steering that cannot take effect as asked (law 1: never silently unsteered)."""


class UndefinedError(EquipoiseError):
    """A quantity that the data cannot tell (all answers abstain, no unambiguous items, ...)."""
