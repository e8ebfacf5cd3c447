"""Names, colours and order of the policies that a report shows."""

from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any

DEFAULT_COLOR = '#009e73'  # for policies that are not in the table


@dataclasses.dataclass(frozen=True)
class ShownPolicies:
  """How to show policies. A policy that is not in `table` works as well.

  Attributes:
    table: policy -> {'label': name for people, 'color': '#rrggbb',
      'order': its place among the others}.
  """

  table: Mapping[str, Mapping[str, Any]] = dataclasses.field(
    default_factory=dict
  )

  def label(self, policy: str) -> str:
    return self.table.get(policy, {}).get('label', policy)

  def color(self, policy: str) -> str:
    return self.table.get(policy, {}).get('color', DEFAULT_COLOR)

  def sort(self, names: Iterable[str]) -> list[str]:
    """Sorts in the table's order; names that it lacks come last, as given."""
    place = lambda name: self.table.get(name, {}).get('order', float('inf'))
    return sorted(names, key=place)
