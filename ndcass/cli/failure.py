"""The two ways in which a command ends badly."""

from ndcass.errors import NdcassError


class CommandFailed(NdcassError):
    """It could not be done; the text is one line for the user. Exit code 1."""


class WrongCall(Exception):
    """The arguments make no sense together. Exit code 2."""
