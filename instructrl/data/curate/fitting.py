"""Fits curated records to lengths in tokens.

Prompts are never cut: a prompt that is too long is dropped, as in the paper
(Ouyang et al. 2022, appendix C). A response that is too long is dropped, or it
is cut and loses its EOS. Cut responses teach a policy not to end, and teach a
reward model that endless answers are good if labelers prefer long ones; see
`cut_preference`.
"""

import array
import collections
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import itertools
import math

from instructrl.data import tasks
from instructrl.data.curate import parts
from instructrl.data.digests import digest
from instructrl.data.digests import Digests
from instructrl.data.records import Demonstration, pick, prompt_of, Ranking
from instructrl.data.sequences import Mapped
from instructrl.data.sequences import where
from instructrl.runtime import typed

LONG_RESPONSES = ('drop', 'cut')
# Config fields, and flags, that say how texts are laid out.
TEMPLATES = ('prompt_template', 'response_template', 'system')


@dataclasses.dataclass(frozen=True)
class Lengths:
  """Limits of records.

  Attributes:
    prompt_len: tokens of a prompt in its layout.
    response_len: tokens of a response, EOS included.
    row_len: tokens of a packed row, which holds a prompt and its response.
    max_responses: K of a ranking.
    long_responses: one of `LONG_RESPONSES`.
  """

  prompt_len: int
  response_len: int
  row_len: int
  max_responses: int = 9
  long_responses: str = 'drop'


def with_templates(tok, fields: Mapping[str, str]):
  """Returns the tokenizer with other templates.

  Args:
    tok: an imported tokenizer.
    fields: the fields of `TEMPLATES`, as typed (see `typed.text`); '' keeps the
      tokenizer's own.

  Raises:
    ValueError: a template cannot be used; names the fields.
  """
  given = {name: typed.text(fields[name]) for name in TEMPLATES if fields[name]}
  if not given:
    return tok
  names = ' and '.join(given)
  if not hasattr(tok, 'with_layout'):
    raise ValueError(
      f'{names}: only an imported tokenizer takes templates; this one has a '
      'fixed layout'
    )
  try:
    return tok.with_layout(**given)
  except ValueError as error:
    raise ValueError(f'{names}: {error}') from error


def fit(
  curated: parts.Curated, tok, lengths: Lengths, seed: int
) -> parts.Curated:
  """Drops or cuts the records that are too long; counts them in `drops`.

  Args:
    curated: records of texts; notes are added to it.
    tok: the tokenizer; see `Remembering`.
    lengths: the limits.
    seed: seed of the draw of responses.

  Returns:
    Records that fit, read when they are used. Rankings have no tokens; see
    `in_tokens`.
  """
  drops, most = curated.drops, lengths.prompt_len
  reason = f'prompt has more than {most} tokens'
  seen = Digests()  # prompts in two splits are counted once

  def fits(part, record):
    prompt = prompt_of(record)
    found = tasks.fits(tasks.chat_prompt(tok, prompt), most)
    if not found and (part != 'prompts' or seen.add(digest(prompt.text))):
      drops.add(part, reason, prompt.id)
    return found

  after = parts.Drops()  # counts that come after those of the prompts
  shown = where(
    lambda d: (
      fits('demonstrations', d) and demonstrated(d, tok, lengths, after)
    ),
    curated.demonstrations,
  )
  drops.update(after)
  after, rows, picks = parts.Drops(), array.array('q'), {}
  for row, ranking in enumerate(curated.rankings):
    if not fits('rankings', ranking):
      continue
    found = choose(ranking, tok, lengths, seed, after)
    if found:
      rows.append(row)
      if len(found) < len(ranking.ranks):  # few rankings lose responses
        picks[row] = found
  drops.update(after)
  ranked = Mapped(functools.partial(_picked, curated.rankings, picks), rows)
  prompts = {
    split: where(functools.partial(fits, 'prompts'), found)
    for split, found in curated.prompts.items()
  }
  layout = getattr(tok, 'layout', None)  # only imported tokenizers have one
  if layout and not layout.between_turns:
    if any(p.turns for found in prompts.values() for p in found):
      curated.notes.append(
        'dialogues are laid out as one text: the prompt template has no turns'
      )
  return dataclasses.replace(
    curated,
    demonstrations=shown,
    rankings=ranked,
    prompts={split: found for split, found in prompts.items() if found},
  )


def _picked(
  rankings: Sequence[Ranking], picks: Mapping[int, Sequence[int]], row: int
) -> Ranking:
  ranking = rankings[row]
  return pick(ranking, picks[row]) if row in picks else ranking


def subsample(ranking: Ranking, max_responses: int, seed: int) -> list[int]:
  """Draws at most `max_responses` responses: a best, a worst and others.

  The best and the worst stay because they are the surest pair; among ties the
  draw decides.

  Returns:
    Indices of responses, in order.
  """
  k = len(ranking.responses)
  if k <= max_responses:
    return [*range(k)]
  number = lambda i: parts.draw(
    seed, 'responses', ranking.prompt.id, ranking.labeler, str(i)
  )
  order = sorted(range(k), key=number)
  best = min(order, key=lambda i: ranking.ranks[i])
  worst = max((i for i in order if i != best), key=lambda i: ranking.ranks[i])
  others = [i for i in order if i not in (best, worst)]
  return sorted([best, worst, *others[: max_responses - 2]])


def learnable(ranks: Sequence[int], responses: Sequence) -> list[int]:
  """Finds the responses to keep where equal ones have different ranks.

  One of the equal responses is kept. None of them is kept if another response
  is ranked between them or tied with one: no reward fits such ranks.

  Args:
    ranks: K ranks.
    responses: K texts or tuples of tokens.

  Returns:
    Indices of responses, in order.
  """
  copies, kept = collections.defaultdict(list), []
  for i, response in enumerate(responses):
    copies[response].append(i)
  for equal in copies.values():
    first, *_, last = sorted(ranks[i] for i in [*equal, equal[0]])
    others = (rank for i, rank in enumerate(ranks) if i not in equal)
    if first == last:
      kept += equal
    elif not any(first <= rank <= last for rank in others):
      kept.append(equal[0])
  return sorted(kept)


def choose(
  ranking: Ranking, tok, lengths: Lengths, seed: int, drops: parts.Drops
) -> list[int]:
  """Chooses the responses of a ranking, at most `response_len` tokens each.

  Counts responses that are dropped or cut, and rankings with fewer than two
  responses left. Responses may be equal after the cut, or after the layout has
  dropped white space, see `learnable`.

  Returns:
    Indices of responses, in order; none if the ranking is dropped.
  """
  most, cutting = lengths.response_len, lengths.long_responses == 'cut'
  name = ranking.prompt.id
  encoded = [
    tasks.response_tokens(tok, text, most + 1) for text in ranking.responses
  ]
  chosen = [i for i, t in enumerate(encoded) if cutting or len(t) <= most]
  long = sum(len(tokens) > most for tokens in encoded)
  if long:
    action = 'cut' if cutting else 'left out'
    reason = f'ranked, {action}: more than {most} tokens'
    drops.add('responses', reason, name, long)
  if len(chosen) < 2:
    reason = f'fewer than 2 responses of at most {most} tokens'
    drops.add('rankings', reason, name)
    return []
  ranks = [ranking.ranks[i] for i in chosen]
  different = learnable(ranks, [tuple(encoded[i][:most]) for i in chosen])
  equal = len(chosen) - len(different)
  if equal:
    reason = 'ranked, left out: equal tokens with different ranks'
    drops.add('responses', reason, name, equal)
  if len(different) < 2:
    drops.add('rankings', 'responses have equal tokens', name)
    return []
  chosen = [chosen[i] for i in different]
  fewer = subsample(pick(ranking, chosen), lengths.max_responses, seed)
  left = len(chosen) - len(fewer)
  if left:
    reason = f'ranked, left out: K above {lengths.max_responses}'
    drops.add('responses', reason, name, left)
  return [chosen[i] for i in fewer]


def in_tokens(ranking: Ranking, tok, response_len: int) -> Ranking:
  """Returns a ranking that `fit` kept with the tokens of all its texts."""
  cut = lambda text: tuple(tasks.response_tokens(tok, text, response_len))
  return dataclasses.replace(
    ranking,
    prompt_tokens=tuple(tasks.chat_prompt(tok, ranking.prompt)),
    response_tokens=tuple(map(cut, ranking.responses)),
  )


def demonstrated(
  d: Demonstration, tok, lengths: Lengths, drops: parts.Drops
) -> bool:
  """Returns whether a demonstration's response fits or is cut; counts others.

  `tasks.sft_rows` cuts those that are only counted.
  """
  room = lengths.row_len + 1 - len(tasks.chat_prompt(tok, d.prompt))
  most = min(lengths.response_len, room)
  if len(tasks.response_tokens(tok, d.response, most + 1)) <= most:
    return True
  if lengths.long_responses == 'cut':
    reason = f'demonstrated, cut: more than {most} tokens'
    drops.add('responses', reason, d.prompt.id)
    return True
  reason = f'response has more than {most} tokens'
  drops.add('demonstrations', reason, d.prompt.id)
  return False


def cut_preference(rankings: Iterable[Ranking], eos_id: int) -> str | None:
  """Warns if labelers prefer the responses that were cut, or the others.

  A cut response lacks EOS, so a reward model then learns to score the end of a
  response and not its content.

  Args:
    rankings: with `response_tokens`.
    eos_id: the token that ends a whole response.

  Returns:
    The warning, or None if the preference is within two standard errors of
    chance. The error counts rankings: pairs of one ranking depend on each
    other.
  """
  pairs, balances = [], []
  for ranking in rankings:
    cut = [tokens[-1] != eos_id for tokens in ranking.response_tokens]
    found = [
      cut[better] - cut[worse]
      for better, worse in itertools.permutations(range(len(cut)), 2)
      if ranking.ranks[better] < ranking.ranks[worse]
    ]
    pairs += found
    balances.append(sum(found))
  if abs(sum(balances)) <= 2 * math.sqrt(sum(b * b for b in balances)):
    return None
  one_cut = sum(map(abs, pairs))
  return (
    f'truncation correlates with preference: in {one_cut / len(pairs):.0%} of '
    f'{len(pairs):,} pairs exactly one response is cut, and it is preferred in '
    f'{pairs.count(1) / one_cut:.0%} of them, so a reward model learns whether '
    "a response ends; set long_responses='drop' or a larger response_len"
  )
