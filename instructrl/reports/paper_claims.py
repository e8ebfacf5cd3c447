"""The findings of Ouyang et al. 2022 on preferences and labels, as data.

`probe_claims` has those on public sets. Both policies of a claim are asked in
the same way. A region is the paper's direction, or "alike" where the paper
reports no difference; it contains no number that was chosen from runs of this
project. Values that the paper draws and does not print are read off by eye and
marked with ~.
"""

import dataclasses

from instructrl.reports.verdicts import ALIKE_RATINGS
from instructrl.reports.verdicts import ALIKE_WINS
from instructrl.reports.verdicts import BY_DEFINITION
from instructrl.reports.verdicts import LOSES
from instructrl.reports.verdicts import NEGATIVE
from instructrl.reports.verdicts import NO_NUMBER
from instructrl.reports.verdicts import POSITIVE
from instructrl.reports.verdicts import WINS


@dataclasses.dataclass(frozen=True)
class WinRate:
  """A claim about how often one policy's answer is preferred.

  Attributes:
    statement: the finding, in words.
    region: of the win rate.
    paper: the paper's own number.
    left: the policy that wins or loses.
    right: the policy that it is compared with.
    labelers: who compares, 'train_labelers' or 'heldout_labelers'; '' is the
      judge.
    evaluation: name of another evaluation of preferences; '' is the main one.
  """

  statement: str
  region: tuple[float, float]
  paper: str
  left: str
  right: str = 'sft'
  labelers: str = ''
  evaluation: str = ''


@dataclasses.dataclass(frozen=True)
class Difference:
  """A claim about a measure of one policy minus that of another.

  Attributes:
    topic: part of the paper's results.
    statement: the finding, in words.
    paper: the paper's own number.
    quantity: the measure, in words.
    path: of the measure in the evaluation's results.
    region: of the difference.
    left: the policy whose measure is the minuend.
    right: the other policy.
    best: the best value of the measure; None if it has no bound.
    unit: see `verdicts.Verdict`.
  """

  topic: str
  statement: str
  paper: str
  quantity: str
  path: str
  region: tuple[float, float]
  left: str = 'ppo_ptx'
  right: str = 'base'
  best: float | None = None
  unit: str = 'points'


@dataclasses.dataclass(frozen=True)
class Level:
  """A claim about a measure of one policy.

  Attributes:
    topic, statement, paper, quantity, path, unit: as of a `Difference`.
    region: of the measure.
    policy: whose measure it is.
  """

  topic: str
  statement: str
  paper: str
  quantity: str
  path: str
  region: tuple[float, float]
  policy: str = 'ppo_ptx'
  unit: str = 'points'


def _by_labelers(
  who: str, labelers: str, base: str, ppo: str, ptx: str, evaluation: str = ''
):
  """Returns what a group of labelers finds; the paper's 175B win rates."""
  paper = '~{}% (175B, Fig. 3)'.format
  other = dict(labelers=labelers, evaluation=evaluation)
  return (
    WinRate(
      f'{who} find the pretrained model worse than SFT',
      LOSES,
      paper(base),
      'base',
      **other,
    ),
    WinRate(
      f'{who} find PPO better than SFT', WINS, paper(ppo), 'ppo', **other
    ),
    WinRate(
      f'{who} find PPO-ptx better than SFT',
      WINS,
      paper(ptx),
      'ppo_ptx',
      **other,
    ),
  )


PUBLIC_TASKS = 'Public tasks'  # topic of the models like FLAN and T0
GPT3_PROMPTS = 'gpt3_prompts'  # name of the evaluation on GPT-3's prompts
_SIZES = 'at every size (Fig. 1)'
WIN_RATES = (
  WinRate(
    'A second sample of SFT is as good as the first',
    ALIKE_WINS,
    BY_DEFINITION,
    'sft',
  ),
  WinRate('The pretrained model is worse than SFT', LOSES, _SIZES, 'base'),
  WinRate(
    'A few-shot prompt helps the pretrained model',
    WINS,
    _SIZES,
    'prompted',
    'base',
  ),
  WinRate(
    'The prompted model is still worse than SFT', LOSES, _SIZES, 'prompted'
  ),
  WinRate('PPO is better than SFT', WINS, _SIZES, 'ppo'),
  WinRate('PPO-ptx is better than SFT', WINS, _SIZES, 'ppo_ptx'),
  WinRate('PPO-ptx and PPO are alike', ALIKE_WINS, _SIZES, 'ppo_ptx', 'ppo'),
  WinRate('PPO is better than its start', WINS, NO_NUMBER, 'ppo', 'ppo_init'),
  WinRate(
    'PPO-ptx beats the pretrained model',
    WINS,
    '85 ± 3% (175B, 4.1)',
    'ppo_ptx',
    'base',
  ),
  WinRate(
    'PPO-ptx beats the prompted model',
    WINS,
    '71 ± 4% (175B, 4.1)',
    'ppo_ptx',
    'prompted',
  ),
  WinRate(
    'PPO-ptx beats the model of public tasks',
    WINS,
    '78 ± 4% (FLAN), 79 ± 4% (T0) (175B, 4.1)',
    'ppo_ptx',
    'nlp',
  ),
  *_by_labelers('Training labelers', 'train_labelers', '24', '63', '66'),
  *_by_labelers('Held-out labelers', 'heldout_labelers', '25', '69', '71'),
  *_by_labelers(
    'On GPT-3’s prompts, training labelers',
    'train_labelers',
    '22',
    '59',
    '61',
    GPT3_PROMPTS,
  ),
  *_by_labelers(
    'On GPT-3’s prompts, held-out labelers',
    'heldout_labelers',
    '28',
    '64',
    '62',
    GPT3_PROMPTS,
  ),
)


def _likert(
  statement: str,
  paper: str,
  left: str,
  right: str,
  topic: str = 'Likert',
  region: tuple[float, float] = POSITIVE,
) -> Difference:
  figure = 'Fig. 31' if topic == 'Likert' else 'Fig. 5'
  return Difference(
    topic,
    statement,
    f'{paper} (175B, {figure})',
    'mean rating',
    'likert',
    region,
    left,
    right,
    unit='',
  )


def _flag(claim, quantity, flag, region, best, ppo, ptx, gpt):
  """Returns the claims about a row of Table 3; shares in per cent (Fig. 4)."""
  return (
    Difference(
      'Labeler metadata',
      f'{name} {claim}',
      f'~{paper}% against {gpt}% (Fig. 4)',
      quantity,
      f'metadata/{flag}',
      region,
      policy,
      best=best,
    )
    for name, policy, paper in (
      ('PPO', 'ppo', ppo),
      ('PPO-ptx', 'ppo_ptx', ptx),
    )
  )


DIFFERENCES = (
  _likert(
    'The prompted model is rated higher than the pretrained model',
    '~3.5 against 2.5',
    'prompted',
    'base',
  ),
  _likert(
    'SFT is rated higher than the prompted model',
    '~4.0 against 3.5',
    'sft',
    'prompted',
  ),
  _likert('PPO is rated higher than SFT', '~4.6 against 4.0', 'ppo', 'sft'),
  _likert(
    'PPO-ptx is rated higher than SFT', '~4.8 against 4.0', 'ppo_ptx', 'sft'
  ),
  _likert(
    'Training on public tasks improves the pretrained model',
    '~3.4 (FLAN), 3.3 (T0) against 2.6',
    'nlp',
    'base',
    PUBLIC_TASKS,
  ),
  _likert(
    'Training on public tasks is about as good as a few-shot prompt',
    '~3.4 (FLAN), 3.3 (T0) against 3.5',
    'nlp',
    'prompted',
    PUBLIC_TASKS,
    ALIKE_RATINGS,
  ),
  _likert(
    'SFT is rated higher than training on public tasks',
    '~4.1 against 3.4 (FLAN), 3.3 (T0)',
    'sft',
    'nlp',
    PUBLIC_TASKS,
  ),
  *_flag(
    'fails less often to follow the instruction',
    'rate of failures to follow the instruction',
    'fails_to_follow_instruction',
    NEGATIVE,
    0.0,
    ppo=8,
    ptx=7,
    gpt=31,
  ),
  *_flag(
    'keeps explicit constraints more often',
    'rate of constraints kept',
    'satisfies_constraint',
    POSITIVE,
    1.0,
    ppo=44,
    ptx=43,
    gpt=22,
  ),
  *_flag(
    'invents less in closed-domain tasks',
    'rate of hallucinations',
    'hallucination',
    NEGATIVE,
    0.0,
    ppo=22,
    ptx=16,
    gpt=45,
  ),
  *_flag(
    'is inappropriate less often',
    'rate of answers inappropriate for a customer assistant',
    'inappropriate_for_customer_assistant',
    NEGATIVE,
    0.0,
    ppo=9,
    ptx=9,
    gpt=18,
  ),
  Difference(
    'Labeler metadata',
    'SFT invents less than PPO-ptx in closed-domain tasks',
    '~16% against 9% (Fig. 4)',
    'rate of hallucinations',
    'metadata/hallucination',
    POSITIVE,
    'ppo_ptx',
    'sft',
    best=0.0,
  ),
)
