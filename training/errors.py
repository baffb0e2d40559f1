"""The one error that a caller of this package has to know."""


class TrainingError(Exception):
    """A fault that the caller can mend; its text is one line that says what came and what is wanted."""
