"""Rotary positions in config.json, with the names of versions 4 and 5."""

from typing import Any

from instructrl.interop.config_reader import Reader

FULL, SLIDING = 'full_attention', 'sliding_attention'  # kinds of layers
# Parameters of Llama 3's scaling of rotary positions, in the model's order.
_LLAMA3 = (
  'factor',
  'low_freq_factor',
  'high_freq_factor',
  'original_max_position_embeddings',
)


def read(
  r: Reader,
  theta: float,
  *,
  layers: str = '',
  fraction: float = 1.0,
  theta_name: str = 'rope_theta',
  fraction_name: str = 'partial_rotary_factor',
) -> dict[str, Any]:
  """Reads rotary positions.

  Args:
    r: config.json, with the names of version 4 or 5.
    theta: the default.
    layers: kind of layers whose part of `rope_parameters` is read; '' reads
      `rope_parameters` itself.
    fraction: the default.
    theta_name: name of theta outside the table.
    fraction_name: name of the fraction outside the table.

  Returns:
    `positions`, `rope_theta`, `rope_scaling` and `rotary_fraction` of our
    model.
  """
  whole_table, old = r.table('rope_parameters'), r.table('rope_scaling')
  if old and whole_table not in ({}, old):
    why = 'rope_parameters says something else: leave one of the two out'
    r.refuse('rope_scaling', old, why)
  new = r.part('rope_parameters').table(layers) if layers else whole_table
  rope = Reader(new | old, f'rope_scaling of {r.kind}')
  for name in (FULL, SLIDING):
    if name in rope:
      r.refuse(name, rope.table(name), 'all layers rotate by one table')
  values = []
  for name, own, default in (
    ('rope_theta', theta_name, theta),
    ('partial_rotary_factor', fraction_name, fraction),
  ):
    value = rope.number(name, r.number(own, default))
    if own != name and r.number(name, value) != value:
      r.refuse(name, r.raw(name), f'by {own} or its table it is {value}')
    values.append(value)
  return dict(
    positions='rotary',
    rope_theta=values[0],
    rope_scaling=_scaling(r, rope, per_layer=bool(layers)),
    rotary_fraction=values[1],
  )


def _scaling(r: Reader, rope: Reader, *, per_layer: bool) -> tuple:
  """Returns `rope_scaling` of our model.

  Args:
    r: config.json.
    rope: the table of rotary positions.
    per_layer: whether each kind of layers has a table of its own.
  """
  kind = rope.text('rope_type', rope.text('type', 'default'))
  if kind == 'default':
    return ()
  if kind == 'linear':
    return (kind, rope.number('factor'))
  if kind != 'llama3':
    r.refuse('rope_type', kind, "only 'default', 'linear' and 'llama3'")
  *names, length_name = _LLAMA3
  # A length outside the table comes first, if all layers share the table.
  length = (
    (0 if per_layer else r.whole(length_name, 0))
    or rope.whole(length_name, 0)
    or r.whole('max_position_embeddings')
  )
  factor, low, high = (rope.number(name) for name in names)
  if low >= high:
    why = 'low_freq_factor must be less than high_freq_factor'
    r.refuse('rope_scaling', rope.raw('low_freq_factor'), why)
  return (kind, factor, low, high, float(length))


def write(scaling: tuple) -> dict[str, Any] | None:
  """Returns `rope_scaling` of config.json for that of our model."""
  if not scaling:
    return None
  kind, *numbers = scaling
  found = dict(rope_type=kind, **dict(zip(_LLAMA3, numbers)))
  if kind == 'llama3':
    found[_LLAMA3[-1]] = int(numbers[-1])
  return found
