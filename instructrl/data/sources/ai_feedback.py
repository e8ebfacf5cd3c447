"""Rankings by GPT-4: UltraFeedback and Nectar."""

from instructrl.data.records import Ranking
from instructrl.data.sources import base
from instructrl.data.sources import fields
from instructrl.tokenizers import dialogue

_PARTS = tuple(
  'evol_instruct false_qa flan sharegpt truthful_qa ultrachat'.split()
)
ASPECTS = ('instruction_following', 'honesty', 'truthfulness', 'helpfulness')
_MISREAD = 2.0  # with a mean rating up to this, a score of 10 is a 1


class UltraFeedback(base.Source):
  """Four models' responses, rated; equal scores are ties.

  Cui et al. 2023, 'UltraFeedback'; the authors' files, with all annotations.
  The score is `overall_score` (1 to 10), or with `score=mean` the mean of the
  ratings (1 to 5) of four aspects. If every response has all ratings, they
  become the metadata. Early files have some scores of 1 as 10: a 10 with a mean
  rating of 2 or less is read as 1, as the authors corrected it later.
  """

  NAME = 'ultrafeedback'
  RECORD = Ranking
  ABOUT = 'UltraFeedback: 4 responses rated by GPT-4 (MIT)'
  SUBSETS = ('all', *_PARTS)
  OPTIONS = {
    'score': base.Option(
      'overall',
      base.one_of('overall', 'mean'),
      'what ranks: overall_score, or the mean of the aspects',
    ),
    'tie_margin': base.TIE_MARGIN,
  }

  def remotes(self):
    folder = f'{base.HUB}openbmb/UltraFeedback/resolve/main/'
    return tuple(
      base.Remote(f'{folder}{part}.jsonl', f'{part}.jsonl', part=part)
      for part in self.parts()
    )

  def part_of(self, path, root):
    del root
    return next((part for part in _PARTS if path.name.startswith(part)), '')

  def record(self, row):
    completions = fields.items(row.value, 'completions')
    texts = [
      fields.ranked_text(item, 'response').strip() for item in completions
    ]
    ratings = [_ratings(item) for item in completions]
    scores = list(map(self._score, completions, ratings))
    instruction = fields.text(row.value, 'instruction').strip()
    whole = all(len(rated) == len(ASPECTS) for rated in ratings)
    return fields.ranking(
      fields.prompt(instruction, split=row.file.split),
      texts,
      fields.ranks_of_scores(scores, self.options['tie_margin']),
      labeler='gpt-4',
      metadata=ratings if whole else (),
      sources=[fields.name(item, 'model') for item in completions],
    )

  def _score(self, item, rated):
    mean = sum(rated.values()) / len(rated) if rated else None
    if self.options['score'] == 'mean':
      if mean is None:
        raise fields.Malformed('a response has no rating of any aspect')
      return mean
    value = fields.field(item, 'overall_score')
    score = fields.number(value, 'overall_score', 1, 10)
    misread = score == 10 and mean is not None and mean <= _MISREAD
    return 1.0 if misread else score


def _ratings(item: dict) -> dict[str, int]:
  """Returns the ratings of the rated aspects ('N/A' is not a rating)."""
  annotations = item.get('annotations') or {}
  rated = {}
  for aspect in ASPECTS:
    about = fields.is_object(annotations, 'annotations').get(aspect) or {}
    value = str(fields.is_object(about, aspect).get('Rating'))
    if value in ('1', '2', '3', '4', '5'):
      rated[aspect] = int(value)
  return rated


class Nectar(base.Source):
  """Seven responses with their ranks.

  Zhu et al. 2023, 'Starling-7B'; the prompt is a dialogue in the form of
  HH-RLHF.
  """

  NAME = 'nectar'
  RECORD = Ranking
  ABOUT = 'Nectar: 7 responses ranked by GPT-4 (see its licence)'

  def remotes(self):
    name = 'rlaif.parquet'
    folder = f'{base.HUB}berkeley-nest/Nectar/resolve/main/data/'
    return (base.Remote(folder + name, name),)

  def record(self, row):
    text = fields.text(row.value, 'prompt').rstrip()
    if not text.startswith(dialogue.HUMAN) or not text.endswith(
      dialogue.ASSISTANT
    ):
      raise fields.Malformed('prompt is not \\n\\nHuman: ... \\n\\nAssistant:')
    inner = text[len(dialogue.HUMAN) : -len(dialogue.ASSISTANT)]
    asked = fields.checked_text(inner, 'prompt').removeprefix(' ').rstrip()
    answers = fields.items(row.value, 'answers')
    ranks = [fields.field(answer, 'rank') for answer in answers]
    turns = dialogue.split_turns(asked)
    return fields.ranking(
      fields.prompt(asked, split=row.file.split, turns=turns),
      [fields.ranked_text(answer, 'answer').strip() for answer in answers],
      [fields.number(rank, 'rank', 1, 7) for rank in ranks],
      labeler='gpt-4',
      sources=[fields.name(answer, 'model') for answer in answers],
    )
