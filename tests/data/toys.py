"""Records with what a test says of them, and what curating makes of some."""

from instructrl.data import records
from instructrl.data.curate import curate
from instructrl.data.curate.parts import CurateSettings
from instructrl.data.records import Demonstration, Document, Prompt, Ranking
from instructrl.data.sources.lookup import Loaded


def prompt(text, user='', split='train', **fields):
  return Prompt(
    **{
      'id': f'id-{text}'[:50],
      'text': text,
      'user': user,
      'use_case': 'other',
      'split': split,
      **fields,
    }
  )


def shown(text, response='yes', labeler='l', **fields):
  return Demonstration(prompt(text, **fields), response, labeler)


def ranked(
  text, responses=('a', 'b'), ranks=(0, 1), labeler='l', group='train', **fields
):
  k = len(responses)
  return Ranking(
    prompt=prompt(text, **fields),
    labeler=labeler,
    group=group,
    responses=tuple(responses),
    response_tokens=(),
    sources=('s',) * k,
    temperatures=(0.0,) * k,
    ranks=tuple(ranks),
  )


def page(text, split='train', **fields):
  return Document(
    **{
      'id': f'id-{text}'[:50],
      'text': text,
      'source': 'web',
      'split': split,
      **fields,
    }
  )


def make(*parts, seed=0, **settings):
  """(part, records) -> what is curated; each its own source."""
  sources = [
    Loaded(rows, spec=f'{part}{i}', part=part)
    for i, (part, rows) in enumerate(parts)
  ]
  return curate.curate(sources, settings=CurateSettings(**settings), seed=seed)


def sides(rows):
  """Folded prompt -> splits it is in."""
  found = {}
  for row in rows:
    p = records.prompt_of(row)
    found.setdefault(records.fold(p.text), set()).add(p.split)
  return found


def check(made):
  """What no settings may break."""
  everything = [
    *made.demonstrations,
    *made.rankings,
    *(p for found in made.prompts.values() for p in found),
  ]
  train = [r for r in everything if records.prompt_of(r).split == 'train']
  held = [r for r in everything if records.prompt_of(r).split != 'train']
  records.check_no_leak(train, held)
  for found in made.prompts.values():
    assert len({p.id for p in found}) == len(found)
  return train, held


NUMBERS = range(40)
