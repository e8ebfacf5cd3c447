"""HH-RLHF: human preferences about helpfulness and harmlessness.

Bai et al. 2022, 'Training a Helpful and Harmless Assistant with Reinforcement
Learning from Human Feedback'; the release of Anthropic on the Hugging Face hub,
MIT licence. `red-team-attempts` holds no preferences and is not read.
"""

from instructrl.data.records import Ranking
from instructrl.data.sources import fields
from instructrl.data.sources.base import Remote
from instructrl.data.sources.base import Source
from instructrl.tokenizers import dialogue

_URL = 'https://huggingface.co/datasets/Anthropic/hh-rlhf/resolve/main/'
PARTS = (
  'helpful-base',
  'helpful-online',
  'helpful-rejection-sampled',
  'harmless-base',
)


class HhRlhf(Source):
  """Pairs of dialogues that differ in the assistant's last turn.

  The prompt is the dialogue up to that turn (see `fields.split_dialogue`).
  Pairs that part earlier have no common prompt and are dropped.
  """

  NAME = 'hh-rlhf'
  RECORD = Ranking
  ABOUT = 'Anthropic HH-RLHF: pairs about help and harm (MIT)'
  SUBSETS = ('all', *PARTS)

  def remotes(self):
    return tuple(
      Remote(
        f'{_URL}{part}/{split}.jsonl.gz',
        f'{part}/{split}.jsonl.gz',
        split,
        part,
      )
      for split in ('train', 'test')
      for part in self.parts()
    )

  def part_of(self, path, root):
    return next(
      (
        part
        for part in path.relative_to(root).parts
        if part in PARTS or part == 'red-team-attempts'
      ),
      '',
    )

  def record(self, row):
    sides = []
    for name in ('chosen', 'rejected'):
      text = fields.text(row.value, name)
      try:
        sides.append(fields.split_dialogue(text))
      except fields.Malformed as error:
        raise fields.Malformed(f'{name}: {error}') from None
    (prompt, chosen), (other, rejected) = sides
    if prompt != other:
      raise fields.Unusable(
        'the dialogues part before the last turn of the assistant'
      )
    if chosen == rejected:
      raise fields.Unusable('chosen and rejected are the same')
    return fields.ranking(
      fields.prompt(
        prompt,
        split=row.file.split,
        use_case='chat',
        turns=dialogue.split_turns(prompt),
      ),
      (chosen, rejected),
      (0, 1),
      labeler=self.NAME,
    )
