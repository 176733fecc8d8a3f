"""The errors a user sees: one sentence, no traceback, exit code 2."""

from __future__ import annotations

__all__ = ["EXIT_FAULT", "EXIT_INTERRUPTED", "EXIT_USER", "UserError"]

EXIT_FAULT = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """A mistake or a lack on the user's side that the user can put right.

    The message is one sentence that says what is wrong, where, and how to mend it. The
    command line prints it on stderr and exits with :data:`EXIT_USER`. Library code raises
    it for missing resources, malformed data, unknown names and absent devices; any other
    exception is a fault of ours.
    """
