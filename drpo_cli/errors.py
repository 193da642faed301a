"""The two kinds of failure: a mistake the user can mend, and everything else (a bug)."""

EXIT_RUN_FAILED = 1
EXIT_USER_ERROR = 2


class UserError(Exception):
    """Something the user can mend. Shown as its message alone, never with a traceback; exit 2.

    The message says where, what is wrong, and what to do.
    """
