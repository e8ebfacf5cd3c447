"""Errors whose message is all a user needs; commands print them as one line."""


class ConfigError(ValueError):
  """A config field cannot be used; the message names the field."""


class CheckpointError(RuntimeError):
  """A checkpoint cannot be written, is damaged, or does not fit."""


class NonFiniteError(ArithmeticError):
  """A loss, reward or other quantity is NaN or infinite."""


# Any other exception is a defect, and keeps its traceback.
EXPECTED_ERRORS = (ValueError, CheckpointError, NonFiniteError, OSError)
