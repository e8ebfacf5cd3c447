"""The table of policies: how each is asked and shown.

A config maps names to runs: `c.policies = dict(sft='../sft', ppo='../ppo')`. An
evaluation and its report cover the policies that the config names. A name that
is not in `POLICIES` works as well: the name is its label, and it comes last.
"""

from collections.abc import Iterable
import dataclasses
import itertools

# For policies that are not in `POLICIES`, one after another.
OTHER_COLORS = ('#009e73', '#556b2f', '#6a5acd')


@dataclasses.dataclass(frozen=True)
class Kind:
  """How a policy is asked and shown.

  Attributes:
    label: its name in reports.
    color: '#rrggbb' in plots.
    asked: how prompts are laid out, see `language_model.TEMPLATES`; '' is
      'plain' for a run of the stage `pretrain`, else 'chat'.
    has_kl: whether its KL from another policy is measured.
  """

  label: str
  color: str = OTHER_COLORS[0]
  asked: str = ''
  has_kl: bool = True


PROMPTED = 'prompted'  # the policy that is asked with a few-shot prefix
# The known policies, in the order of reports.
POLICIES = {
  'base': Kind('pretrained', '#8c8c8c', 'plain', has_kl=False),
  'imported': Kind('imported', '#8c8c8c', 'chat', has_kl=False),
  PROMPTED: Kind('prompted', '#f0c000', 'few_shot', has_kl=False),
  'nlp': Kind('public tasks', '#8b5a2b', 'chat', has_kl=False),
  'sft': Kind('SFT', '#56b4e9', 'chat', has_kl=False),
  'ppo_init': Kind('PPO start', '#0072b2', 'chat'),
  'ppo': Kind('PPO', '#d55e00', 'chat'),
  'ppo_ptx': Kind('PPO-ptx', '#9550b0', 'chat'),
  'dpo': Kind('DPO', '#cc79a7', 'chat'),
}


def kind(name: str) -> Kind:
  """Returns how a policy is asked and shown; any name has defaults."""
  return POLICIES.get(name, Kind(name))


def shown(names: Iterable[str]) -> dict[str, dict]:
  """Returns how reports show policies: name -> {'label', 'color', 'order'}."""
  table, colors = {}, itertools.cycle(OTHER_COLORS)
  for name in names:
    known = name in POLICIES
    table[name] = {
      'label': kind(name).label,
      'color': kind(name).color if known else next(colors),
      'order': list(POLICIES).index(name) if known else len(POLICIES),
    }
  return table


def ordered(names: Iterable[str]) -> list[str]:
  """Sorts names: the known ones in the table's order, then the others."""
  place = {name: i for i, name in enumerate(POLICIES)}
  return sorted(names, key=lambda name: place.get(name, len(place)))


def named(config) -> list[str]:
  """Returns the policies that a config gives a path, in order."""
  return ordered(name for name, path in config.policies.items() if path)


def template_of(name: str, stage: str) -> str:
  """Returns how a policy is asked, see `Kind.asked`.

  Args:
    name: of the policy.
    stage: that trained it.
  """
  return kind(name).asked or ('plain' if stage == 'pretrain' else 'chat')
