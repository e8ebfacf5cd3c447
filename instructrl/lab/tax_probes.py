"""Makers of the probes of the alignment tax (Ouyang et al. 2022, appendix D).

| task        | stands for | scored by                               |
|-------------|------------|-----------------------------------------|
| reading     | SQuADv2    | F1 of a greedy continuation             |
| arithmetic  | DROP       | F1 of a greedy continuation             |
| completion  | HellaSwag  | options, mean log-probability per token |
| entailment  | RTE        | options                                 |
| sentiment   | SST        | options                                 |
| translation | WMT Fr-En  | BLEU of a greedy continuation           |
| summary     | TL;DR      | ROUGE-L of a greedy continuation        |

Texts are held out: no corpus of any seed contains them. Few-shot contexts have
the form of the corpus. A small model learns a part of each task, so that it can
lose something and regain it. The meta of a probe has its 'form', the kind of
question, and 'zero_shot', the context without examples; completion has none.
"""

from collections.abc import Callable
from typing import Any

from instructrl.lab.world import exercises
from instructrl.lab.world import prose

# Examples before the open one; an example of reading is a question more.
NUM_SHOTS = 2
NUM_ENDINGS = 4

Fields = tuple[str, tuple[str, ...], tuple[str, ...], dict[str, Any]]


def _reading(world, rng, count) -> list[Fields]:
  return [
    _asked(
      *exercises.background(world, rng, held_out=True),
      prose.background_item,
      ('kind', 'absent', 'fact', 'rival')[i % 4],
    )
    for i in range(count)
  ]


def _arithmetic(world, rng, count) -> list[Fields]:
  return [
    _asked(
      *exercises.coins(world, rng, held_out=True),
      prose.reading_item,
      ('count', 'compare', 'count', 'look_up')[i % 4],
    )
    for i in range(count)
  ]


def _asked(text, items, layout: Callable, form: str) -> Fields:
  """Asks for an item of a form, or for the first one, after all others.

  Meta: 'passage'; 'question'; 'form'; 'zero_shot'.
  """
  item = next((i for i in items if i.form == form), items[0])
  shots = [(i.question, i.answer) for i in items if i is not item]
  asked = (item.question, '')
  meta = {
    'passage': text,
    'question': item.question,
    'form': item.form,
    'zero_shot': layout(text, asked),
  }
  return layout(text, *shots, asked), (), (item.answer,), meta


def _entailment(world, rng, count) -> list[Fields]:
  """Meta: 'passage'; 'question'; 'form'; 'zero_shot'."""
  fields = []
  for _ in range(count):
    text, items = exercises.entailment(world, rng, held_out=True)
    context, _, answers, meta = _asked(text, items, prose.reading_item, '')
    fields.append((context, exercises.YES_NO, answers, meta))
  return fields


def _sentiment(world, rng, count) -> list[Fields]:
  """Meta: 'passage'; 'form'; 'zero_shot'."""
  fields = []
  for _ in range(count):
    drawn = [
      exercises.review(world, rng, held_out=True)
      for _ in range(2 * NUM_SHOTS + 1)
    ]
    text, (item,) = drawn[-1]
    shots = [prose.review_item(shot, i.answer) for shot, (i,) in drawn[:-1]]
    alone = prose.review_item(text, '')
    meta = {'passage': text, 'form': item.form, 'zero_shot': alone}
    context = '\n'.join([*shots, alone])
    fields.append((context, item.options, (item.answer,), meta))
  return fields


def _summary(world, rng, count) -> list[Fields]:
  """Makes stories with their summaries, the last one open.

  Meta: 'passage'; 'zero_shot'.
  """
  fields = []
  for _ in range(count):
    shot, story = (exercises.story(world, rng, held_out=True) for _ in range(2))
    alone = prose.summary_item(story.text, '')
    context = f'{prose.summary_item(shot.text, shot.summary)}\n{alone}'
    meta = {'passage': story.text, 'zero_shot': alone}
    fields.append((context, (), (story.summary,), meta))
  return fields


def _completion(world, rng, count) -> list[Fields]:
  """Makes statements and stories with four endings. Meta: 'form'."""
  # Statements with the value at the end, so that it can be the ending.
  known = [
    (key, variant)
    for key in world.facts
    if key not in world.misconceptions
    for variant, template in enumerate(world.relation[key[1]].statements)
    if template.index('{s}') < template.index('{v}')
  ]
  known = prose.pick_some(rng, known, (count + 1) // 2)
  fields = [_statement_endings(world, rng, *item) for item in known]
  fields += [_story_endings(world, rng) for _ in range(count - len(fields))]
  return fields


def _statement_endings(world, rng, key, variant) -> Fields:
  template = world.relation[key[1]].statements[variant]
  context, ending = template.split('{v}')
  value = world.facts[key]
  others = prose.pick_some(
    rng, [v for v in world.values(key[1]) if v != value], NUM_ENDINGS - 1
  )
  return (
    context.format(s=key[0]).rstrip(),
    *_endings(
      rng, value, prose.pick_some(rng, others, NUM_ENDINGS - 1), ending
    ),
    {'form': 'statement'},
  )


def _story_endings(world, rng) -> Fields:
  """Draws endings of a story: who is thanked, or for what.

  The wrong endings are in the story too, or one of the same kind is not.
  """
  story = exercises.story(world, rng, held_out=True)
  if rng.random() < 0.5:
    context, value, ending = (
      f'{story.start} {story.taker} thanks',
      story.giver,
      f' for the {story.gift}.',
    )
    near, kind = (story.taker, story.others[0]), 'people'
  else:
    context, value, ending = (
      story.text.removesuffix(f' {story.gift}.'),
      story.gift,
      '.',
    )
    near, kind = (story.others[1],), 'foods'
  far = [v for v in world.kinds[kind] if v not in (value, *near)]
  others = (*near, *prose.pick_some(rng, far, NUM_ENDINGS - 1))
  return (
    context,
    *_endings(rng, value, others[: NUM_ENDINGS - 1], ending),
    {'form': 'story'},
  )


def _endings(rng, value, others, ending):
  """Returns (shuffled options, (the right one,)), all of the same form."""
  options = prose.pick_some(rng, [value, *others], NUM_ENDINGS)
  return tuple(v + ending for v in options), (value + ending,)


def _translation(world, rng, count) -> list[Fields]:
  """Makes translations, in turn both ways.

  Meta: 'direction'; 'source'; 'zero_shot'.
  """
  fields = []
  for i in range(count):
    names = ('English', world.language.name)
    pairs = []
    for _ in range(NUM_SHOTS + 1):
      english = prose.random_sentence(world, rng, held_out=True)
      pairs.append((english, world.language.translate(english)))
    if i % 2:
      names, pairs = names[::-1], [pair[::-1] for pair in pairs]
    items = [
      prose.parallel_item(names[0], source, names[1], target)
      for source, target in pairs[:-1]
    ]
    source, target = pairs[-1]
    alone = prose.parallel_item(names[0], source, names[1], '')
    meta = {
      'direction': f'{names[0]}-{names[1]}',
      'source': source,
      'zero_shot': alone,
    }
    fields.append(('\n'.join([*items, alone]), (), (target,), meta))
  return fields


MAKERS: dict[str, Callable] = {
  'reading': _reading,
  'arithmetic': _arithmetic,
  'completion': _completion,
  'entailment': _entailment,
  'sentiment': _sentiment,
  'translation': _translation,
  'summary': _summary,
}
