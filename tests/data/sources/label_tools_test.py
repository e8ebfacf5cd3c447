"""Exports of Argilla, Label Studio and Potato, in the tools' own forms."""

import json

import pytest

from instructrl.data.sources import lookup
from tests.data.sources import source_files

FIELDS = {'prompt': 'Why?', 'response-1': 'A', 'response-2': 'B, or C'}


def argilla(**responses):
  return {
    'id': 'r1',
    'fields': FIELDS | {'response-3': 'D'},
    'metadata': {},
    'suggestions': {},
    'responses': {
      question: [{'value': v, 'user_id': f'u{i}'} for i, v in enumerate(values)]
      for question, values in responses.items()
    },
    'vectors': {},
    '_server_id': '5d9f',
  }


def test_argilla_ranks_with_ties_and_in_order(tmp_path):
  ranked = [
    {'value': f'response-{i}', 'rank': rank} for i, rank in ((1, 2), (2, 1))
  ] + [{'value': 'response-3', 'rank': 1}]
  order = ['response-3', 'response-1', 'response-2']
  row = argilla(ranking=[ranked, order], notes=['fine', 'good'])
  path = tmp_path / 'records.json'
  path.write_text(json.dumps([row], indent=1))
  first, second = lookup.load(f'argilla:{path}').records
  assert first.responses == ('A', 'B, or C', 'D') and first.ranks == (1, 0, 0)
  assert second.ranks == (1, 2, 0)
  assert (first.labeler, second.labeler) == ('u0', 'u1')
  assert first.prompt.text == 'Why?' and first.prompt.id == 'r1'
  assert first.sources == ('response-1', 'response-2', 'response-3')


def test_argilla_rates(tmp_path):
  row = argilla(**{'response-1-rating': [2], 'response-3-rating': [5]})
  spec = 'argilla:PATH?strict=true'
  found = source_files.load(spec, tmp_path / 'a.jsonl', [row])
  (ranking,) = found.records
  assert ranking.responses == ('A', 'D') and ranking.ranks == (1, 0)
  row = argilla(ranking=[['response-1', 'response-9']])
  with pytest.raises(lookup.SourceError, match="'response-9', which is not a"):
    spec = 'argilla:PATH?question=ranking&strict=true'
    source_files.load(spec, tmp_path / 'a.jsonl', [row])


def task(*results, number=1, **data):
  items = [
    {'id': f'llm_{i}', 'title': f'Answer {i}', 'body': f'text {i}'}
    for i in range(3)
  ]
  return {
    'id': number,
    'data': {'prompt': 'Why?', 'items': items} | data,
    'annotations': [
      {
        'id': 10 + i,
        'completed_by': {'id': i, 'email': f'lab{i}@example.org'},
        'was_cancelled': result is None,
        'result': [] if result is None else result,
      }
      for i, result in enumerate(results)
    ],
    'predictions': [],
    'project': 3,
  }


def result(kind, **value):
  return {'from_name': 'x', 'to_name': 'results', 'type': kind, 'value': value}


def test_label_studio_ranker_in_order_and_in_buckets(tmp_path):
  order = result('ranker', ranker=['llm_2', 'llm_0', 'llm_1'])
  buckets = result(
    'ranker', ranker={'good': ['llm_1', 'llm_2'], 'bad': ['llm_0'], '_': []}
  )
  path = tmp_path / 'export.json'
  path.write_text(json.dumps([task([order], None, [buckets])]))
  spec = f'label_studio:{path}?strict=true'
  first, second = lookup.load(f'{spec}&buckets=good,bad').records
  assert first.ranks == (1, 2, 0) and second.ranks == (1, 0, 0)
  assert first.responses == ('text 0', 'text 1', 'text 2')
  assert second.labeler == 'lab2@example.org'
  with pytest.raises(lookup.SourceError, match='good, bad: order them'):
    lookup.load(spec)


def test_label_studio_pairs_and_ratings(tmp_path):
  texts = {'text1': 'A', 'text2': 'B'}
  rows = [
    task([result('pairwise', selected='right')], number=1, **texts),
    task([result('pairwise')], number=2, **texts),
    task(
      [
        result('rating', rating=4) | {'to_name': 'text1'},
        result('rating', rating=2) | {'to_name': 'text2'},
      ],
      number=3,
      **texts,
    ),
    task([result('choices', choices=['x'])], number=4, **texts),
  ]
  found = source_files.load('label_studio:PATH', tmp_path / 'a.jsonl', rows)
  assert [r.ranks for r in found.records] == [(1, 0), (0, 0), (0, 1)]
  assert sum(found.dropped.values()) == 1


def write_potato(folder, **orders):
  items = [
    {'id': 't1', 'prompt': 'Why?', 'responses': ['Yes, it is.', 'No', 'Maybe']}
  ]
  source_files.write_lines(folder / 'items.jsonl', items)
  for user, order in orders.items():
    state = folder / 'annotation_output' / user / 'user_state.json'
    state.parent.mkdir(parents=True)
    labels = {'t1': {'quality': {'rank_order': order}, 'note': {'text': 'x'}}}
    content = {'user_id': user, 'instance_id_to_label_to_value': labels}
    state.write_text(json.dumps(content, indent=2))
  return f'potato:{folder}/annotation_output?items={folder}/items.jsonl'


def test_potato_orders_with_ties_and_commas(tmp_path):
  spec = write_potato(tmp_path, ada='B,C=A', bob='Maybe,Yes, it is.=No')
  ada, bob = lookup.load(f'{spec}&strict=true').records
  assert ada.responses == ('Yes, it is.', 'No', 'Maybe')
  assert ada.ranks == (1, 0, 1) and bob.ranks == (1, 1, 0)
  assert (ada.labeler, bob.labeler) == ('ada', 'bob')


def test_potato_names_what_is_wrong(tmp_path):
  spec = write_potato(tmp_path, ada='B,X')
  with pytest.raises(lookup.SourceError, match="no response at 'X'"):
    lookup.load(f'{spec}&strict=true')
  with pytest.raises(lookup.SourceError, match='name the data file'):
    lookup.load(spec.partition('?')[0])
