"""Errors whose message is all a user needs; commands print them as one line."""

import traceback


class ConfigError(ValueError):
  """A config field cannot be used; the message names the field."""


class CheckpointError(RuntimeError):
  """A checkpoint cannot be written, is damaged, or does not fit."""


class StorageError(CheckpointError):
  """A checkpoint cannot be written now, because the storage failed."""


class NonFiniteError(ArithmeticError):
  """A loss, reward or other quantity is NaN or infinite."""


# Any other exception is a defect, and keeps its traceback.
EXPECTED_ERRORS = (ValueError, CheckpointError, NonFiniteError, OSError)


def located(error: Exception) -> str:
  """Returns an error of a user's own code in one line, with where it arose."""
  if isinstance(error, ImportError):
    return str(error)
  text = f'{type(error).__name__}: {error}'
  if isinstance(error, SyntaxError):  # has its file and line
    return text
  frame = traceback.extract_tb(error.__traceback__)[-1]
  return f'{text} ({frame.filename}, line {frame.lineno})'
