"""Rankings by GPT-4: UltraFeedback and Nectar."""

from instructrl.data.records import Ranking
from instructrl.data.sources import fields
from instructrl.data.sources.base import at_least
from instructrl.data.sources.base import one_of
from instructrl.data.sources.base import Option
from instructrl.data.sources.base import Remote
from instructrl.data.sources.base import Source
from instructrl.tokenizers import dialogue

_HUB = 'https://huggingface.co/datasets/'
_PARTS = (
  'evol_instruct',
  'false_qa',
  'flan',
  'sharegpt',
  'truthful_qa',
  'ultrachat',
)
ASPECTS = ('instruction_following', 'honesty', 'truthfulness', 'helpfulness')
_MISREAD = 2.0  # the highest mean rating with which a 10 cannot be one


class UltraFeedback(Source):
  """Four models' responses, rated; equal scores are ties.

  Cui et al. 2023, 'UltraFeedback'; the authors' files, with all annotations.
  The score is `overall_score` (1 to 10), or with `score=mean` the mean of the
  ratings (1 to 5) of four aspects, which become the metadata where every
  response has all of them. In early files some scores of 1 were read as 10:
  a 10 beside a mean rating of 2 or less is taken as 1, as the authors repaired
  it later.
  """

  NAME = 'ultrafeedback'
  RECORD = Ranking
  ABOUT = 'UltraFeedback: 4 responses rated by GPT-4 (MIT)'
  SUBSETS = ('all', *_PARTS)
  OPTIONS = {
    'score': Option(
      'overall',
      one_of('overall', 'mean'),
      'what ranks: overall_score, or the mean of the aspects',
    ),
    'tie_margin': Option(
      0.0, at_least(0.0), 'scores less than this apart are ties'
    ),
  }

  def remotes(self):
    return tuple(
      Remote(
        f'{_HUB}openbmb/UltraFeedback/resolve/main/{part}.jsonl',
        f'{part}.jsonl',
        part=part,
      )
      for part in self.parts()
    )

  def part_of(self, path, root):
    del root
    return next((part for part in _PARTS if path.name.startswith(part)), '')

  def record(self, row):
    completions = fields.items(row.value, 'completions')
    texts = [fields.response(item, 'response') for item in completions]
    ratings = [_ratings(item) for item in completions]
    scores = [
      self._score(item, rated) for item, rated in zip(completions, ratings)
    ]
    prompt = fields.prompt(
      fields.text(row.value, 'instruction').strip(), split=row.file.split
    )
    whole = all(len(rated) == len(ASPECTS) for rated in ratings)
    return fields.ranking(
      prompt,
      texts,
      fields.ranks_of_scores(scores, self.options['tie_margin']),
      labeler='gpt-4',
      metadata=ratings if whole else (),
      sources=[
        fields.optional_text(item, 'model', fields.UNKNOWN)
        for item in completions
      ],
    )

  def _score(self, item, rated):
    mean = sum(rated.values()) / len(rated) if rated else None
    if self.options['score'] == 'mean':
      if mean is None:
        raise fields.Malformed('a response has no rating of any aspect')
      return mean
    score = fields.number(fields.field(item, 'overall_score'), 'overall_score')
    misread = score == 10 and mean is not None and mean <= _MISREAD
    return 1.0 if misread else score


def _ratings(item: dict) -> dict[str, int]:
  """The ratings of the aspects that were rated ('N/A' is none)."""
  annotations = item.get('annotations') or {}
  rated = {}
  for aspect in ASPECTS:
    about = fields.is_object(annotations, 'annotations').get(aspect) or {}
    value = str(fields.is_object(about, aspect).get('Rating'))
    if value in ('1', '2', '3', '4', '5'):
      rated[aspect] = int(value)
  return rated


class Nectar(Source):
  """Seven responses with their ranks.

  Zhu et al. 2023, 'Starling-7B'; the prompt is a dialogue and is read as that
  of HH-RLHF.
  """

  NAME = 'nectar'
  RECORD = Ranking
  ABOUT = 'Nectar: 7 responses ranked by GPT-4 (see its licence)'

  def remotes(self):
    name = 'rlaif.parquet'
    return (
      Remote(f'{_HUB}berkeley-nest/Nectar/resolve/main/data/{name}', name),
    )

  def record(self, row):
    text = fields.text(row.value, 'prompt').rstrip()
    if not text.startswith(dialogue.HUMAN) or not text.endswith(
      dialogue.ASSISTANT
    ):
      raise fields.Malformed('prompt is not \\n\\nHuman: ... \\n\\nAssistant:')
    asked = fields.checked_text(
      text[len(dialogue.HUMAN) : -len(dialogue.ASSISTANT)], 'prompt'
    )
    asked = asked.removeprefix(' ').rstrip()
    answers = fields.items(row.value, 'answers')
    return fields.ranking(
      fields.prompt(
        asked, split=row.file.split, turns=dialogue.split_turns(asked)
      ),
      [fields.response(answer, 'answer') for answer in answers],
      [
        fields.number(fields.field(answer, 'rank'), 'rank')
        for answer in answers
      ],
      labeler='gpt-4',
      sources=[
        fields.optional_text(answer, 'model', fields.UNKNOWN)
        for answer in answers
      ],
    )
