"""Trees of numbers: their leaves, and Markdown tables of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def leaves(
  tree: Mapping[str, Any], prefix: str = ''
) -> Iterator[tuple[str, float, list[float] | None]]:
  """Yields (path, value, interval or None) for every number of a tree.

  The interval of a number is its sibling `ci95`, or the list at the same path
  below a top-level key `ci95`.
  """
  intervals = tree.get('ci95') if not prefix else None
  for name, value in tree.items():
    path = f'{prefix}{name}'
    if isinstance(value, Mapping) and path not in ('ci95', 'n'):
      for inner, number, interval in leaves(value, f'{path}.'):
        yield inner, number, interval or _interval(intervals, inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
      yield path, float(value), tree.get('ci95') if prefix else None


def _interval(tree, path: str):
  for name in path.split('.'):
    if not isinstance(tree, Mapping) or name not in tree:
      return None
    tree = tree[name]
  return tree if isinstance(tree, list) else None


def cell(value: float, interval: Sequence[float] | None = None) -> str:
  """Formats a number: '0.5', or '0.5 [0.4, 0.6]' with its interval."""
  if not interval:
    return f'{value:.3g}'
  return f'{value:.3g} [{interval[0]:.3g}, {interval[1]:.3g}]'


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a Markdown table, without a newline after its last row."""
  lines = [f'| {" | ".join(header)} |', '|---' * len(header) + '|']
  return '\n'.join([*lines, *(f'| {" | ".join(row)} |' for row in rows)])
