"""WebGPT comparisons: pairs of long answers to questions.

Nakano et al. 2021, 'WebGPT', Appendix K: the comparisons that OpenAI released.
"""

import re

from instructrl.data.records import Ranking
from instructrl.data.sources import base
from instructrl.data.sources import fields

_URL = 'https://openaipublic.blob.core.windows.net/webgpt-answer-viewer/'
_CITATION = r'\s?\[\d+(?:,\s*\d+)*\]'


class WebGpt(base.Source):
  """Pairs of answers; a score of 0 is a tie.

  Only the sign of a score is used, as in the paper (Section 3.2). Answers cite
  quotes, such as '[1, 2]', that are not in the prompt.
  """

  NAME = 'webgpt_comparisons'
  RECORD = Ranking
  ABOUT = 'pairs of answers with citations (OpenAI)'
  OPTIONS = {
    'citations': base.Option(
      'keep', base.one_of('keep', 'drop'), 'citations in answers, such as [1]'
    )
  }

  def remotes(self):
    return (base.Remote(f'{_URL}comparisons.jsonl', 'comparisons.jsonl'),)

  def record(self, row):
    question, answers, scores = _both(row.value)
    asked = fields.text(question, 'full_text')
    number = fields.optional_text(question, 'id')
    dataset = fields.name(question, 'dataset')
    if self.options['citations'] == 'drop':
      answers = [re.sub(_CITATION, '', answer) for answer in answers]
    return fields.ranking(
      fields.prompt(
        asked.strip(),
        split=row.file.split,
        use_case='open_qa',
        own_id=f'webgpt/{dataset}/{number}' if number else '',
      ),
      [fields.checked_text(answer, 'answer').strip() for answer in answers],
      fields.ranks_of_scores(scores),
      labeler='webgpt',
      sources=('webgpt',) * 2,
    )


def _both(value):
  """Returns the question, the answers and the scores of either form."""
  if isinstance(value, list):  # OpenAI's file: one object an answer
    if len(value) != 2:
      raise fields.Malformed(f'has {len(value)} answers, not 2')
    question = fields.field(value[0], 'question')
    answers = [fields.text(side, 'answer') for side in value]
    scores = [fields.field(side, 'score') for side in value]
  else:  # the hub's copy: one object a pair
    question = fields.field(value, 'question')
    answers = [fields.text(value, f'answer_{i}') for i in (0, 1)]
    scores = [fields.field(value, f'score_{i}') for i in (0, 1)]
  numbers = [
    fields.number(score, f'score_{i}', -1, 1) for i, score in enumerate(scores)
  ]
  return question, answers, numbers
