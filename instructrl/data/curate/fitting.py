"""Curated records in tokens: what is too long, and rankings of too many.

A prompt is never cut: one that does not fit is dropped, as in the paper
(Ouyang et al. 2022, section 3.2). A demonstration's response loses its end (and
its EOS). A ranked response that does not fit is left out of its ranking, or cut
as well: labelers saw the whole of it.
"""

import array
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses

from instructrl.data import tasks
from instructrl.data.curate import parts
from instructrl.data.records import Prompt, prompt_of, Ranking

LONG_RESPONSES = ('drop', 'cut')
# Fields of a config, and flags, that say how texts are laid out.
TEMPLATES = ('prompt_template', 'response_template', 'system')


@dataclasses.dataclass(frozen=True)
class Lengths:
  """Limits in tokens, and of K.

  Attributes:
    prompt_len: of a prompt in its layout.
    response_len: of a response, its EOS included.
    max_responses: K at most.
    long_responses: what happens to ranked responses that do not fit.
  """

  prompt_len: int
  response_len: int
  max_responses: int = 9
  long_responses: str = 'drop'


def with_templates(tok, fields: Mapping[str, str]):
  """The tokenizer with the templates that are given.

  Args:
    tok: as it was imported.
    fields: of `TEMPLATES`; '' leaves what is in the tokenizer. The two
      characters \\n, all that a shell can write, are a newline.

  Raises:
    ValueError: names the fields and why they cannot be used.
  """
  given = {
    name: fields[name].replace('\\n', '\n')
    for name in TEMPLATES
    if fields[name]
  }
  if not given:
    return tok
  if not hasattr(tok, 'with_layout'):
    raise ValueError(
      f'{" and ".join(given)}: only an imported tokenizer takes '
      'templates; this one has a layout of its own'
    )
  try:
    return tok.with_layout(**given)
  except ValueError as error:
    raise ValueError(f'{" and ".join(given)}: {error}') from error


class Remembering:
  """A tokenizer that lays out each prompt and response once.

  What is counted, limited, packed and summed up are the same texts again and
  again. Documents are not kept: a corpus may be larger than memory.
  """

  def __init__(self, tok):
    self._tok, self._known = tok, {}

  def __getattr__(self, name):
    return getattr(self._tok, name)

  def prompt(self, text: str, turns: Sequence[str] = ()) -> list[int]:
    return self._once('prompt', text, tuple(turns))

  def response(self, text: str) -> list[int]:
    return self._once('response', text)

  def _once(self, method: str, *args) -> list[int]:
    key = method, *args
    if key not in self._known:
      # Four bytes a token, where a list takes up to nine times as much.
      self._known[key] = array.array('i', getattr(self._tok, method)(*args))
    return self._known[key].tolist()


def prompts_that_fit(tok, prompt_len: int) -> Callable[[Prompt], bool]:
  """Prompt -> whether its layout fits; each text is encoded once."""
  known = {}

  def fits(prompt: Prompt) -> bool:
    key = prompt.text, prompt.turns
    if key not in known:
      known[key] = tasks.fits(tasks.chat_prompt(tok, prompt), prompt_len)
    return known[key]

  return fits


def fitting(
  records: Iterable,
  part: str,
  fits: Callable[[Prompt], bool],
  prompt_len: int,
  drops: parts.Drops,
) -> list:
  """The records whose prompt fits; the others are counted."""
  kept = []
  for record in records:
    prompt = prompt_of(record)
    if fits(prompt):
      kept.append(record)
    else:
      drops.add(part, f'prompt has more than {prompt_len} tokens', prompt.id)
  return kept


def pick(ranking: Ranking, chosen: Sequence[int]) -> Ranking:
  """The ranking of some of its responses; ranks are dense again."""
  of = lambda values: tuple(values[i] for i in chosen) if values else ()
  ranks = of(ranking.ranks)
  order = sorted(set(ranks))
  return dataclasses.replace(
    ranking,
    responses=of(ranking.responses),
    response_tokens=of(ranking.response_tokens),
    sources=of(ranking.sources),
    temperatures=of(ranking.temperatures),
    ranks=tuple(order.index(rank) for rank in ranks),
    metadata=of(ranking.metadata),
  )


def subsample(ranking: Ranking, max_responses: int, seed: int) -> Ranking:
  """At most so many responses: a best, a worst and others, drawn.

  The best and the worst stay, as they are the surest pair; of several that are
  tied there the one that is drawn first. The order of the responses is kept.
  """
  k = len(ranking.responses)
  if k <= max_responses:
    return ranking
  number = lambda i: parts.draw(
    seed, 'responses', ranking.prompt.id, ranking.labeler, str(i)
  )
  order = sorted(range(k), key=number)
  best = min(order, key=lambda i: ranking.ranks[i])
  worst = max((i for i in order if i != best), key=lambda i: ranking.ranks[i])
  others = [i for i in order if i not in (best, worst)]
  return pick(ranking, sorted([best, worst, *others[: max_responses - 2]]))


def tokenized(
  rankings: Iterable[Ranking],
  tok,
  lengths: Lengths,
  seed: int,
  drops: parts.Drops,
) -> list[Ranking]:
  """Rankings with `response_tokens` of at most `response_len` tokens each.

  What is counted are rows: of responses where they are left out or cut, of
  rankings where fewer than two responses are left.
  """
  kept = []
  for ranking in rankings:
    tokens, chosen, name = [], [], ranking.prompt.id
    for i, text in enumerate(ranking.responses):
      whole = tasks.response_tokens(tok, text, lengths.response_len + 1)
      cut = len(whole) > lengths.response_len
      tokens.append(tuple(whole[: lengths.response_len]))
      if cut:
        what = 'left out' if lengths.long_responses == 'drop' else 'cut'
        drops.add(
          'responses',
          f'ranked, {what}: more than {lengths.response_len} tokens',
          name,
        )
      if not cut or lengths.long_responses == 'cut':
        chosen.append(i)
    if len(chosen) < 2:
      drops.add(
        'rankings',
        f'fewer than 2 responses of at most {lengths.response_len} tokens',
        name,
      )
      continue
    ranking = pick(
      dataclasses.replace(ranking, response_tokens=tuple(tokens)), chosen
    )
    fewer = subsample(ranking, lengths.max_responses, seed)
    left = len(ranking.responses) - len(fewer.responses)
    if left:
      drops.add(
        'responses',
        f'ranked, left out: K above {lengths.max_responses}',
        name,
        left,
      )
    kept.append(fewer)
  return kept


def count_cut(
  demonstrations: Iterable, tok, response_len: int, drops: parts.Drops
) -> None:
  """Counts the demonstrations whose response `tasks.sft_rows` cuts."""
  for d in demonstrations:
    whole = tasks.response_tokens(tok, d.response, response_len + 1)
    if len(whole) > response_len:
      drops.add(
        'responses',
        f'demonstrated, cut: more than {response_len} tokens',
        d.prompt.id,
      )
