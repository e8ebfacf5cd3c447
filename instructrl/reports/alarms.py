"""Alarms: faults of a run that can hide behind a high score.

PPO maximizes the score of a reward model. The score rises, and a verdict on the
score is "shown", also where the answers have become useless. Each alarm looks
for one way in which that happens, in the metrics, results and samples of a run
on the lab's or on real data. The pretrained model is no subject of an alarm.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import re
import statistics
import unicodedata

from instructrl.reports import formats
from instructrl.reports.study_files import Study

MOST_KL = 25.0  # nats a response
LEAST_ENDED = 0.8  # share of the responses
MOST_FAULTY = 0.1  # share of the responses that repeat or are garbled
MOST_ALIKE = 0.5  # share of the prompts with the same response
MOST_GROWTH = 1.5  # of the length of responses
LEAST_EXPLAINED = 0.0  # explained variance of the values

_WINDOW = 5  # the first and the last 1/5 of the iterations are compared
_WORDS = 4  # in a sequence that is looked for twice
_STUCK = re.compile(r'(\w{1,8}?)\1{9,}')  # 'hahaha...', ten times
_PRETRAIN = 'pretrain'
_LABELERS = {'in_group': 'training labelers', 'heldout': 'held-out labelers'}


@dataclasses.dataclass(frozen=True)
class Alarm:
  """A fault that a run has.

  Attributes:
    title: the fault.
    found: where, with the numbers; one text per run or data set.
    limit: what sets the alarm off, and why this is the limit.
    advice: what to look at and to change.
  """

  title: str
  found: Sequence[str]
  limit: str
  advice: str


@dataclasses.dataclass(frozen=True)
class _Kind:
  """An alarm that a run may set off; `find` returns the texts of `found`."""

  title: str
  limit: str
  advice: str
  find: Callable[[Study], list[str]]


def raised(study: Study) -> list[Alarm]:
  """Returns the alarms of a run; what it did not measure sets off none."""
  found = [(kind, kind.find(study)) for kind in _KINDS]
  return [
    Alarm(kind.title, texts, kind.limit, kind.advice)
    for kind, texts in found
    if texts
  ]


def of_studies(studies: Sequence[tuple[str, Study]]) -> list[Alarm]:
  """Returns the alarms of (name, study) pairs; texts begin with the name."""
  merged: dict[str, Alarm] = {}
  for name, study in studies:
    for alarm in raised(study):
      before = merged[alarm.title].found if alarm.title in merged else ()
      found = [*before, *(f'{name}: {text}' for text in alarm.found)]
      merged[alarm.title] = dataclasses.replace(alarm, found=found)
  return [*merged.values()]


def repeats(text: str) -> bool:
  """Returns whether a text runs in a circle.

  Half of its sequences of four words repeat earlier ones, or it has up to eight
  characters ten times in a row.
  """
  words = text.split()
  sequences = [*zip(*(words[i:] for i in range(_WORDS)))]
  if sequences and 2 * len(set(sequences)) <= len(sequences):
    return True
  return _STUCK.search(text) is not None


def garbled(text: str) -> bool:
  """Returns whether a text has bytes or characters that are no text.

  A character that the end of the text cuts does not count.
  """
  return any(
    c == '\ufffd' or unicodedata.category(c) == 'Cc' and c not in '\t\n\r'
    for c in text.rstrip('\ufffd')
  )


def _ends(study: Study, metric: str) -> dict[str, tuple[float, float]]:
  """Returns stage -> means over the first and over the last iterations."""
  ends = {}
  for stage in study.policies.sort(study.metrics):
    values = study.series(stage, metric)['value']
    if values:
      count = max(1, len(values) // _WINDOW)
      ends[stage] = (
        statistics.fmean(values[:count]),
        statistics.fmean(values[-count:]),
      )
  return ends


def _levels(study: Study, measure: str) -> dict[str, float]:
  """Returns trained policy -> its value on held-out prompts."""
  tree = study.evaluation.get(measure, {}).get('policies', {})
  return {
    policy: tree[policy]['value']
    for policy in _trained(study, tree)
    if tree[policy].get('value') is not None
  }


def _trained(study: Study, names) -> list[str]:
  """Returns the policies of `names` that a stage after pretraining made."""
  return [
    name
    for name in study.policies.sort(names)
    if name in study.metrics and name != _PRETRAIN
  ]


def _both(
  study: Study, metric: str, measure: str, faulty, text: Callable[[float], str]
) -> list[str]:
  """Returns what is faulty at the end of training and on held-out prompts."""
  name = study.policies.label
  return [
    f'{name(stage)}: {text(last)} at the end of training'
    for stage, (_, last) in _ends(study, metric).items()
    if faulty(last)
  ] + [
    f'{name(policy)}: {text(value)} on held-out prompts'
    for policy, value in _levels(study, measure).items()
    if faulty(value)
  ]


def _kl(study: Study) -> list[str]:
  return _both(
    study,
    'objective/kl',
    'kl',
    lambda x: x > MOST_KL,
    lambda x: f'{x:.0f} nats a response',
  )


def _unfinished(study: Study) -> list[str]:
  return _both(
    study,
    'response/eos_frac',
    'ended',
    lambda x: x < LEAST_ENDED,
    lambda x: f'{x:.0%} of the responses end',
  )


def _texts(study: Study) -> list[str]:
  """Finds trained policies whose samples repeat, are garbled or all alike."""
  responses: dict[str, list[str]] = {}
  for sample in study.samples:
    for policy, found in sample.get('policies', {}).items():
      responses.setdefault(policy, []).append(found['response'])
  lines = []
  for policy in _trained(study, responses):
    texts = responses[policy]
    most, count = collections.Counter(texts).most_common(1)[0]
    shares = (
      (statistics.fmean(map(repeats, texts)), MOST_FAULTY, 'repeat themselves'),
      (statistics.fmean(map(garbled, texts)), MOST_FAULTY, 'are garbled'),
      (count / len(texts), MOST_ALIKE, f'are {most[:40]!r}'),
    )
    lines += [
      f'{study.policies.label(policy)}: {share:.0%} of {len(texts):,} '
      f'responses {fault}'
      for share, limit, fault in shares
      if share > limit and len(texts) > 1
    ]
  return lines


def _reward_model(study: Study) -> list[str]:
  """Finds held-out data on which the reward model is no better than a rule."""
  found = {
    name: part['difference'][LONGER]
    for name, part in study.evaluation.get('accuracy', {}).items()
    if LONGER in part['difference']
  }
  found = found or {
    _LABELERS.get(group, group): part['over_longer']
    for group, part in study.result('reward').get('accuracy', {}).items()
    if 'over_longer' in part  # older runs did not measure it
  }
  return [
    f'{name}: {formats.measured(difference, "points", signed=True)} of '
    f'accuracy, reward model minus “{LONGER}”'
    for name, difference in found.items()
    if not _above(difference, 0.0)
  ]


def _above(summary: Mapping, level: float) -> bool:
  """Returns whether the whole interval of a summary is above a level."""
  return (summary.get('ci95') or [summary['value']])[0] > level


def _values(study: Study) -> list[str]:
  return [
    f'{study.policies.label(stage)}: explained variance '
    f'{formats.fixed(last, 2)} at the end of training'
    for stage, (_, last) in _ends(study, 'value/explained_variance').items()
    if last <= LEAST_EXPLAINED
  ]


def _growth(study: Study) -> list[str]:
  return [
    f'{study.policies.label(stage)}: from {first:.0f} to {last:.0f} tokens'
    for stage, (first, last) in _ends(study, 'response/length').items()
    if last > MOST_GROWTH * first
  ]


LONGER = 'longer is better'  # a baseline of `evaluators.ranking_accuracy`
_KINDS = (
  _Kind(
    'The policy is far from where PPO started',
    f'More than {MOST_KL:g} nats of KL a response. The best of n samples is '
    'log n − (n − 1) / n nats away, so that 25 nats are the best of about 200 '
    'billion: the reward model has never ranked such text.',
    'Read the samples. Raise ppo.kl_coef or lower the learning rate, and use '
    'an earlier checkpoint.',
    _kl,
  ),
  _Kind(
    'Many responses do not end',
    f'Fewer than {LEAST_ENDED:.0%} of the responses end by themselves: a user '
    'sees more than one in five cut off. Demonstrations all end.',
    'Raise response_len, or penalize missing ends with ppo.missing_eos.',
    _unfinished,
  ),
  _Kind(
    'Responses are repeated or garbled',
    f'More than {MOST_FAULTY:.0%} of the responses run in a circle or have '
    f'characters that are no text, or more than {MOST_ALIKE:.0%} of the '
    'prompts have the same response. Demonstrations do none of this; a healthy '
    'run of the lab does it in fewer than 1%.',
    'Read the samples. In PPO raise ppo.kl_coef; after SFT train longer, or '
    'from a better pretrained model.',
    _texts,
  ),
  _Kind(
    'The reward model may only measure length',
    'The 95% interval of the difference of their accuracies includes 0. PPO '
    'then maximizes length, or noise.',
    'Compare more held-out pairs. Train the reward model on more rankings, or '
    'change its learning rate.',
    _reward_model,
  ),
  _Kind(
    'The value model explains nothing',
    'An explained variance of the returns of 0 or less: a constant would be as '
    'good, and the advantages are those of no baseline.',
    'Train longer, or raise the value model’s learning rate.',
    _values,
  ),
  _Kind(
    'Responses grow longer',
    f'More than {MOST_GROWTH:g} times the length at the start of PPO. Labelers '
    'and reward models favour length, so that a part of the score may be '
    'length alone.',
    'Compare scores at equal length. Add a reward for brevity '
    '(examples/my_reward.py), or raise ppo.kl_coef.',
    _growth,
  ),
)
