"""Typed access to the metadata of a checkpoint.

Covers config.json of Hugging Face and the metadata of GGUF files. Errors name
the file, the field and its value.
"""

from collections.abc import Mapping
import math
from typing import Any

MAX_LAYERS = 10_000  # names of all layers are listed before any is looked for
_LAYERS = ('n_layer', 'num_hidden_layers', 'llama.block_count')


def listed(values) -> str:
  """Returns the values as they are written in Python, with commas."""
  return ', '.join(repr(value) for value in values)


def _is_whole(value) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


class Reader:
  """Reads the fields of one table.

  A getter with a default returns the default where the field is absent or
  null. A getter without a default requires the field.
  """

  def __init__(
    self, table: Mapping[str, Any], kind: str, source: str = 'config.json'
  ):
    """Wraps a table.

    Args:
      table: the fields.
      kind: what the table describes, such as 'llama'; for messages.
      source: where the table comes from; for messages.
    """
    self._table, self.kind, self._source = table, kind, source

  def raw(self, name: str, default=None):
    """Returns a field of any kind."""
    value = self._table.get(name)
    return default if value is None else value

  def __contains__(self, name: str) -> bool:
    return self.raw(name) is not None

  def _get(self, name: str, default: tuple, wanted: str, fits):
    value = self.raw(name)
    if value is None:
      if not default:
        raise ValueError(f'{self._source}: {self.kind} needs {name}')
      return default[0]
    if not fits(value):
      raise ValueError(f'{self._source}: {name}={value!r} is not {wanted}')
    return value

  def whole(self, name: str, *default, least: int = 1) -> int:
    """Returns a whole number of `least` or more."""
    fits = lambda value: _is_whole(value) and least <= value < 2**31
    wanted = f'a whole number of {least} or more'
    value = self._get(name, default, wanted, fits)
    if name in _LAYERS and value > MAX_LAYERS:
      raise ValueError(
        f'{self._source}: {name}={value!r} is more than {MAX_LAYERS:,} layers'
      )
    return value

  def number(self, name: str, *default) -> float:
    """Returns a finite number above 0."""
    fits = lambda value: (
      (_is_whole(value) or isinstance(value, float)) and 0 < value < math.inf
    )
    return float(self._get(name, default, 'a positive number', fits))

  def truth(self, name: str, *default) -> bool:
    """Returns true or false."""
    fits = lambda value: isinstance(value, bool)
    return self._get(name, default, 'true or false', fits)

  def text(self, name: str, *default) -> str:
    """Returns a text."""
    return self._get(
      name, default, 'a name', lambda value: isinstance(value, str)
    )

  def items(self, name: str, *default):
    """Returns a list."""
    fits = lambda value: isinstance(value, (list, tuple))
    return self._get(name, default, 'a list', fits)

  def table(self, name: str) -> dict[str, Any]:
    """Returns a table without its null fields; {} where it is absent."""
    fits = lambda value: isinstance(value, Mapping)
    found = self._get(name, ({},), 'a table', fits)
    return {key: value for key, value in found.items() if value is not None}

  def part(self, name: str) -> 'Reader':
    """Returns a reader of a table inside this one."""
    return Reader(self.table(name), f'{name} of {self.kind}', self._source)

  def refuse(self, name: str, value, why: str):
    """Raises a ValueError that names a field, its value and the reason."""
    raise ValueError(
      f'{self._source}: {name}={value!r} is not supported in {self.kind}: {why}'
    )

  def only(self, name: str, default, *allowed) -> None:
    """Refuses a field unless its value is allowed; 1 is not true."""
    value = self.raw(name, default)
    if not any(value == x and type(value) is type(x) for x in allowed):
      self.refuse(name, value, f'only {listed(allowed)}')

  def choose(self, name: str, table: Mapping[str, Any], default: str):
    """Returns the entry of `table` that a field names."""
    value = self.text(name, default)
    if value not in table:
      self.refuse(name, value, f'only {listed(table)}')
    return table[value]
