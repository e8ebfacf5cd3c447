"""The fields of `config.rewards`: a weighted sum of named reward terms.

Imports the standard library only, so that the experiments can import this
module.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

KINDS = ('model', 'function')


@dataclasses.dataclass(frozen=True)
class Term:
  """One reward term.

  Attributes:
    kind: 'model', a run of the `reward` stage, or 'function', in Python.
    path: folder of the run; kind 'model' only.
    function: 'module:name' of the function; kind 'function' only.
    weight: factor of the term in the score; 0 leaves the term out.
  """

  kind: str = 'model'
  path: str = ''
  function: str = ''
  weight: float = 1.0


def defaults() -> dict[str, Any]:
  """Returns the fields of a term with their defaults."""
  return dataclasses.asdict(Term())


def read(rewards: Mapping[str, Mapping[str, Any]]) -> dict[str, Term]:
  """Returns {name: term} of the terms with a weight.

  Raises:
    ValueError: a field makes no sense, or no term has a weight.
  """
  terms = {name: _read(name, fields) for name, fields in rewards.items()}
  terms = {name: term for name, term in terms.items() if term.weight}
  if not terms:
    raise ValueError(
      'rewards must have a term with a weight other than 0; got '
      f'{", ".join(rewards) or "no term"}'
    )
  return terms


def _read(name: str, fields: Mapping[str, Any]) -> Term:
  known = defaults()
  for field in fields:
    if field not in known:
      raise ValueError(
        f'rewards.{name} must have the fields {", ".join(known)}; got {field}'
      )
  term = Term(**fields)
  if term.kind not in KINDS:
    raise ValueError(
      f'rewards.{name}.kind must be one of {", ".join(KINDS)}; '
      f'got {term.kind!r}'
    )
  if not math.isfinite(term.weight):
    raise ValueError(f'rewards.{name}.weight must be finite; got {term.weight}')
  wanted, other, belongs = (
    ('path', 'function', 'function')
    if term.kind == 'model'
    else ('function', 'path', 'model')
  )
  if getattr(term, other):
    raise ValueError(
      f'rewards.{name}.{other} must be empty with kind={term.kind!r}; got '
      f'{getattr(term, other)!r}; or set rewards.{name}.kind={belongs}'
    )
  if term.weight and not getattr(term, wanted):
    raise ValueError(
      f'rewards.{name}.{wanted} must be set with kind={term.kind!r}'
    )
  return term
