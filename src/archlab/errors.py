"""The one exception that a user sees: a single line that names the value, the rule and the remedy."""


class UserError(ValueError):
    """Something the caller can mend. The command line prints it as one line and exits with code 2."""


class DivergedError(UserError):
    """Training whose loss or gradient is no finite number any more; the same run would end so again."""
