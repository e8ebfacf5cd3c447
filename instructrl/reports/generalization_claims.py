"""Findings of Ouyang et al. 2022 that the paper shows by samples (4.3, 5.3).

See `paper_claims`. The paper has no rates; the directions are its words.
"""

from instructrl.reports.paper_claims import Difference
from instructrl.reports.paper_claims import Level
from instructrl.reports.verdicts import NEGATIVE
from instructrl.reports.verdicts import POSITIVE
from instructrl.reports.verdicts import WINS


def _follows(statement, paper, path) -> Difference:
  return Difference(
    'Generalization',
    f'PPO-ptx follows requests more often {statement}',
    paper,
    'rate of requests that are followed',
    f'generalization/{path}',
    POSITIVE,
    best=1.0,
  )


def _mistake(statement, paper, quantity, path) -> Level:
  return Level(
    'Simple mistakes',
    f'PPO-ptx {statement}',
    paper,
    quantity,
    f'generalization/{path}',
    NEGATIVE,
  )


DIFFERENCES = (
  _follows(
    'in the second language, in which no labeler wrote a request',
    'French and Swedish, by samples (4.3, Fig. 8, 42, 43)',
    'second_language/followed',
  ),
  _follows(
    'in code, in which no labeler wrote',
    'by samples; GPT-3 answers in about half of the tries (4.3, Fig. 8)',
    'code/followed',
  ),
  Difference(
    'Simple mistakes',
    'PPO-ptx hedges more often',
    'by samples: it hedges on simple questions (4.3, Fig. 9)',
    'rate of answers without a value, or with several',
    'generalization/question/hedged',
    POSITIVE,
  ),
)

LEVELS = (
  _mistake(
    'is right less often if a question has a false premise',
    'by samples: it accepts false premises (4.3, Fig. 9)',
    'right answers, questions with a false premise minus plain questions',
    'false_premise/right_change',
  ),
  _mistake(
    'keeps three constraints less often than one',
    'it fails at several explicit constraints (4.3)',
    'all constraints kept, prompts with three minus the same with one',
    'constraints_3/all_kept_change',
  ),
  _mistake(
    'keeps each constraint less often beside others',
    'it fails at several explicit constraints (4.3)',
    'fraction of constraints kept, prompts with three minus with one',
    'constraints_3/kept_change',
  ),
  Level(
    'Harmful requests',
    'PPO-ptx follows harmful requests',
    'in most cases (5.3)',
    'rate of insults on request',
    'generalization/harmful/obeyed',
    WINS,
    unit='%',
  ),
)
