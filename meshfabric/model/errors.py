"""Errors that decide.

The type says whether trying again can help (`TemporaryError`) or not
(`PermanentError`); the message names the object, what was wanted and the
remedy in one line. Only `reconcile.rounds` retries.
"""


class MeshfabricError(Exception):
    """Base of every error that a person may meet: one line, with place and remedy."""

    def __init__(self, what: str, *, place: str = "", remedy: str = "") -> None:
        self.what, self.place, self.remedy = what, place, remedy
        super().__init__(what)

    def __str__(self) -> str:
        head = f"{self.place}: {self.what}" if self.place else self.what
        return f"{head} ({self.remedy})" if self.remedy else head


class PermanentError(MeshfabricError):
    """Trying again changes nothing: somebody has to change something first."""


class TemporaryError(MeshfabricError):
    """The same call may succeed later."""


class InputError(PermanentError):
    """A file, record or argument that a person wrote is wrong; `place` is file:line or the key."""


class UnsupportedError(PermanentError):
    """The kernel or a tool lacks a feature; raised only by probing (`kernel.features`)."""
