"""HH-RLHF: human preferences about helpfulness and harmlessness.

Bai et al. 2022, 'Training a Helpful and Harmless Assistant with Reinforcement
Learning from Human Feedback'; the release of Anthropic on the Hugging Face hub,
MIT licence. `red-team-attempts` has no preferences and is not read.
"""

from instructrl.data.records import Ranking
from instructrl.data.sources import base
from instructrl.data.sources import fields
from instructrl.tokenizers import dialogue

_URL = f'{base.HUB}Anthropic/hh-rlhf/resolve/main/'
PARTS = (
  'helpful-base',
  'helpful-online',
  'helpful-rejection-sampled',
  'harmless-base',
)


class HhRlhf(base.Source):
  """Pairs of dialogues that differ in the assistant's last turn.

  The prompt is the dialogue up to this turn (see `fields.split_dialogue`).
  Pairs that differ earlier have no common prompt and are dropped.
  """

  NAME = 'hh-rlhf'
  RECORD = Ranking
  ABOUT = 'Anthropic HH-RLHF: pairs about help and harm (MIT)'
  SUBSETS = ('all', *PARTS)

  def remotes(self):
    name = '{}/{}.jsonl.gz'.format
    return tuple(
      base.Remote(_URL + name(part, split), name(part, split), split, part)
      for split in ('train', 'test')
      for part in self.parts()
    )

  def part_of(self, path, root):
    known = (*PARTS, 'red-team-attempts')
    folders = path.relative_to(root).parts
    return next((part for part in folders if part in known), '')

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
        'the dialogues differ before the last turn of the assistant'
      )
    if chosen == rejected:
      raise fields.Unusable(fields.SAME)
    asked = fields.prompt(
      prompt,
      split=row.file.split,
      use_case='chat',
      turns=dialogue.split_turns(prompt),
    )
    return fields.ranking(asked, (chosen, rejected), (0, 1), labeler=self.NAME)
