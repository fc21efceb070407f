"""Honest measurements of facial-emotion-recognition models on FER2013 and FER+."""

__version__ = "0.1.0"


class DataError(ValueError):
    """The data cannot be used; the message names the file, the place in it and the remedy."""
