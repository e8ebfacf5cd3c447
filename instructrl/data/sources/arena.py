"""Pairs of Chatbot Arena (LMArena): two models answer, a person votes.

Zheng et al. 2023, 'Judging LLM-as-a-judge with MT-Bench and Chatbot Arena'. The
data sets ask for consent before a download, and so are read from your disk.
"""

import json

from instructrl.data.records import Ranking
from instructrl.data.sources import base
from instructrl.data.sources import fields

_BOTH_BAD = 'tie (bothbad)'
_VOTES = {'model_a': (0, 1), 'model_b': (1, 0), 'tie': (0, 0)}


class Arena(base.Source):
  """Votes with ties, of `chatbot_arena_conversations` or the 55k preferences.

  Only votes after one turn are used: later turns answer another dialogue for
  each of the two models.
  """

  NAME = 'chatbot_arena'
  RECORD = Ranking
  PUBLIC = False
  ABOUT = 'pairs with ties of Chatbot Arena (LMSYS, LMArena)'
  OPTIONS = {
    'bothbad': base.Option(
      'tie', base.one_of('tie', 'drop'), 'votes that both answers are bad'
    )
  }

  def record(self, row):
    value = row.value
    if isinstance(value, dict) and 'conversation_a' in value:
      asked, answers = self._conversations(value)
      vote = fields.text(value, 'winner')
      own_id = fields.optional_text(value, 'question_id')
    else:
      asked, answers = self._columns(value)
      vote = self._winner(value)
      own_id = fields.optional_text(value, 'id')
    if vote == _BOTH_BAD and self.options['bothbad'] == 'drop':
      raise fields.Unusable('both answers are bad')
    vote = 'tie' if vote in (_BOTH_BAD, 'both_bad') else vote
    if vote not in _VOTES:
      raise fields.Malformed(
        f'winner must be one of {", ".join(_VOTES)}, {_BOTH_BAD}; got {vote!r}'
      )
    return fields.ranking(
      fields.prompt(
        asked,
        split=row.file.split,
        own_id=f'arena/{own_id}' if own_id else '',
        use_case='chat',
      ),
      answers,
      _VOTES[vote],
      labeler=fields.name(value, 'judge'),
      sources=[fields.text(value, f'model_{side}') for side in 'ab'],
    )

  def _conversations(self, value):
    sides = []
    for name in ('conversation_a', 'conversation_b'):
      turns = fields.items(value, name)
      if len(turns) != 2:
        raise fields.Unusable(f'{name} has {len(turns)} turns, not 2')
      sides.append([fields.ranked_text(turn, 'content') for turn in turns])
    (asked, first), (again, second) = sides
    if asked != again:
      raise fields.Malformed('the conversations begin with different prompts')
    return fields.checked_text(asked, 'the prompt'), [first, second]

  def _columns(self, value):
    texts = []
    for name in ('prompt', 'response_a', 'response_b'):
      column = fields.field(value, name)
      if isinstance(column, str):  # a list of turns as JSON
        try:
          column = json.loads(column)
        except ValueError as error:
          raise fields.Malformed(f'{name} is not a JSON list') from error
      if not isinstance(column, list):
        raise fields.Malformed(f'{name} is not a list of turns')
      if len(column) != 1:
        raise fields.Unusable(f'{name} has {len(column)} turns, not 1')
      texts.append('' if column[0] is None else column[0])
    asked = fields.checked_text(texts[0], 'prompt')
    return asked, [
      fields.checked_text(text, 'a response', may_be_empty=True)
      for text in texts[1:]
    ]

  def _winner(self, value):
    if value.get('winner') is not None:
      return fields.text(value, 'winner')
    votes = {
      name: fields.number(fields.field(value, f'winner_{name}'), name, 0, 1)
      for name in _VOTES
    }
    chosen = [name for name, vote in votes.items() if vote]
    if len(chosen) != 1:
      raise fields.Malformed(f'has {len(chosen)} winners, not 1')
    return chosen[0]
