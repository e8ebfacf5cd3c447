"""The files of an evaluation."""

import json

import pytest

from instructrl.evaluators import evaluator
from instructrl.evaluators import results


def collected():
  return results.collect(
    {'sft': {'label': 'SFT'}},
    {
      'a': (
        'preference',
        evaluator.Outcome(
          {'likert': 1, 'differences': {'likert': 2}}, [{'kind': 'preference'}]
        ),
      ),
      'b': ('probes', evaluator.Outcome({'differences': {'probes': 3}})),
      'other_prompts': (
        'preference',
        evaluator.Outcome({'likert': 5, 'differences': {'likert': 6}}),
      ),
      'c': ('mine:Own', evaluator.Outcome({'likert': 7}, [{'x': 0}])),
    },
  )


def test_evaluations_of_the_package_are_one_tree_and_others_are_apart():
  content, samples = collected()
  assert results.merged(content) == {
    'policies': {'sft': {'label': 'SFT'}},
    'likert': 1,
    'differences': {'likert': 2, 'probes': 3},
    'named': {'other_prompts': {'likert': 5, 'differences': {'likert': 6}}},
  }
  assert results.others(content) == {'c': {'likert': 7}}
  assert samples == [{'eval': 'a', 'kind': 'preference'}, {'eval': 'c', 'x': 0}]


def test_the_evaluation_with_the_name_of_its_type_counts():
  """Configs sort their fields, so the first name says nothing."""
  content, _ = collected()
  evals = content['evals']
  evals['preference'] = {'type': 'preference', 'results': {'likert': 9}}
  merged = results.merged(content)
  assert merged['likert'] == 9 and {*merged['named']} == {'a', 'other_prompts'}


def test_merging_leaves_the_content_as_it_is():
  content, _ = collected()
  before = json.dumps(content)
  results.merged(content)
  assert json.dumps(content) == before


def test_another_format_is_refused(tmp_path):
  content, _ = collected()
  path = tmp_path / results.RESULTS
  path.write_text(json.dumps(content))
  assert results.read(tmp_path) == content
  path.write_text('{"preference": {}}')
  with pytest.raises(ValueError, match='format_version None.*run the eval'):
    results.read(tmp_path)
