"""The two kinds of failure: a mistake that the user can fix, and everything else (a bug)."""

from drpo_cli import secrets

EXIT_RUN_FAILED = 1
EXIT_USER_ERROR = 2


class UserError(Exception):
    """A mistake that the user can fix. Shown as its message alone, without a traceback; exit 2.

    what  where it is, and what is wrong
    fix   what to do about it; the message is `what; fix`
    """

    def __init__(self, what: str, fix: str = "") -> None:
        what, fix = (secrets.mask_urls(secrets.mask(text)) for text in (what, fix))
        super().__init__(f"{what}; {fix}" if fix else what)
        self.what = what
        self.fix = fix
