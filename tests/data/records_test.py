"""Records: what is refused and with which words, and the JSON round trip."""

import dataclasses
import json
import pickle

import pytest

from instructrl.data import records
from instructrl.data.records import (
  Demonstration,
  Document,
  Prompt,
  Ranking,
  RecordError,
  validate,
)

PROMPT = Prompt(
  id='p1',
  text='Where was Mara born?',
  user='u1',
  use_case='open_qa',
  split='train',
  spec='{"max_words": 9}',
)
DOCUMENT = Document(
  id='d1', text='Mara was born in Oakton.', source='forum', split='train'
)
DEMONSTRATION = Demonstration(PROMPT, 'In Oakton.', 'labeler-1')
RANKING = Ranking(
  prompt=PROMPT,
  labeler='labeler-2',
  group='heldout',
  responses=('In Oakton.', '', 'In Elm.', 'Où ?'),
  response_tokens=((7, 8, 2), (2,), (7, 9, 2), (11, 12)),
  sources=('sft', 'base', 'sft', 'human'),
  temperatures=(1.0, 0.7, 1.0, 0.0),
  ranks=(0, 2, 1, 1),
  metadata=({'overall': 7, 'hallucination': 0},) * 4,
)
DIALOGUE = dataclasses.replace(
  PROMPT, text='a\n\nAssistant: b\n\nHuman: c', turns=('a', 'b', 'c')
)
ALL = (
  PROMPT,
  DIALOGUE,
  DOCUMENT,
  DEMONSTRATION,
  RANKING,
  dataclasses.replace(DEMONSTRATION, prompt=DIALOGUE),
)


@pytest.mark.parametrize('record', ALL)
def test_good_records_pass_and_keep_all_in_json(record):
  assert validate(record) is record
  values = json.loads(json.dumps(records.to_dict(record)))
  assert values.pop('format_version') == records.FORMAT_VERSION
  assert values.pop('type') == type(record).__name__
  assert values == json.loads(json.dumps(dataclasses.asdict(record)))


def test_a_ranking_may_have_no_tokens_yet():
  record = dataclasses.replace(RANKING, response_tokens=())
  assert validate(record) is record
  # None is not the same as some.
  for tokens in (RANKING.response_tokens[:3], ((),) * 4, ((7,),)):
    with pytest.raises(RecordError, match='response_tokens'):
      validate(dataclasses.replace(RANKING, response_tokens=tokens))


def test_the_error_has_the_file_the_index_and_the_reason():
  bad = dataclasses.replace(RANKING, ranks=(0, 1, 2))
  with pytest.raises(RecordError) as caught:
    validate(bad, source='rankings.array_record', index=17)
  assert str(caught.value) == (
    'rankings.array_record[17]: ranks has 3 entries for 4 responses'
  )
  error = pickle.loads(pickle.dumps(caught.value))
  assert (error.source, error.index, error.reason) == (
    'rankings.array_record',
    17,
    'ranks has 3 entries for 4 responses',
  )


@pytest.mark.parametrize(
  'change, reason',
  [
    (dict(text=''), 'text is empty'),
    (dict(text=' \n'), 'text is empty'),
    (dict(text=b'bytes'), 'text is bytes, not text'),
    (dict(text='ab\ud800'), 'text is not UTF-8 at character 2'),
    (dict(text='a' * 65_537), 'has 65,537 characters, the limit is 65,536'),
    (dict(id=''), 'id is empty'),
    (dict(use_case='poetry'), "use_case is 'poetry', not one of generation"),
    (dict(split='dev'), "split is 'dev', not one of train, validation, test"),
    (dict(spec='{'), 'spec is not JSON'),
    (dict(user=None), 'user is NoneType, not text'),
    (dict(turns=['a', 'b', 'c']), 'turns is list, not a tuple'),
    (dict(turns=('a',)), 'turns has 1 entries: a dialogue goes'),
    (dict(turns=('a', 'b', 'c', 'd')), 'turns has 4 entries: a dialogue goes'),
    (dict(turns=('a', ' ', 'c')), r'turns\[1\] is empty'),
    (dict(turns=('a', 'b', 3)), r'turns\[2\] is int, not text'),
  ],
)
def test_bad_prompts(change, reason):
  bad = dataclasses.replace(PROMPT, **change)
  with pytest.raises(RecordError, match=f'record: {reason}|: .*{reason}'):
    validate(bad)
  with pytest.raises(RecordError, match=f'prompt .*{reason}'):
    validate(dataclasses.replace(DEMONSTRATION, prompt=bad))
  with pytest.raises(RecordError, match=f'prompt .*{reason}'):
    validate(dataclasses.replace(RANKING, prompt=bad))


def test_a_prompt_may_lack_user_and_spec():
  validate(dataclasses.replace(PROMPT, user='', spec=''))


@pytest.mark.parametrize(
  'change, reason',
  [
    (dict(text=''), 'text is empty'),
    (dict(source=''), 'source is empty'),
    (dict(split='test'), "split is 'test', not one of train, validation"),
  ],
)
def test_bad_documents(change, reason):
  with pytest.raises(RecordError, match=reason):
    validate(dataclasses.replace(DOCUMENT, **change))


def test_bad_demonstrations():
  for change, reason in [
    (dict(response=' '), 'response is empty'),
    (dict(labeler=''), 'labeler is empty'),
    (dict(prompt='text'), 'prompt is str, not a Prompt'),
  ]:
    with pytest.raises(RecordError, match=reason):
      validate(dataclasses.replace(DEMONSTRATION, **change))


@pytest.mark.parametrize(
  'change, reason',
  [
    (dict(group='test'), "group is 'test', not one of train, heldout"),
    (dict(labeler=''), 'labeler is empty'),
    (dict(responses=['a', 'b', 'c', 'd']), 'responses is list, not a tuple'),
    (dict(responses=('a', 'b', 'c')), 'response_tokens has 4 entries for 3'),
    (dict(responses=('a', 'b', 'c', '\udfff')), r'responses\[3\] is not UTF-8'),
    (
      dict(response_tokens=((7,), (2,), (3,))),
      'response_tokens has 3 entries for 4 responses',
    ),
    (
      dict(response_tokens=((7,), (), (3,), (2,))),
      r'response_tokens\[1\] is empty',
    ),
    (
      dict(response_tokens=((7,), (-1,), (3,), (2,))),
      r'response_tokens\[1\] is not a tuple of token ids',
    ),
    (
      dict(response_tokens=((7,) * 8193, (1,), (3,), (2,))),
      r'response_tokens\[0\] has 8,193 tokens, the limit is 8,192',
    ),
    (dict(sources=('sft',) * 3), 'sources has 3 entries for 4 responses'),
    (dict(sources=('sft', '', 'sft', 'sft')), r'sources\[1\] is empty'),
    (dict(temperatures=(1.0, 1.0)), 'temperatures has 2 entries for 4'),
    (
      dict(temperatures=(1.0, 1.0, float('nan'), 0.0)),
      r'temperatures\[2\] is nan',
    ),
    (dict(temperatures=(1.0, 1.0, -0.5, 0.0)), r'temperatures\[2\] is -0.5'),
    (dict(ranks=(0, 1, 2, 4)), r'ranks \(0, 1, 2, 4\) are not dense'),
    (dict(ranks=(1, 2, 3, 4)), 'not dense'),
    (dict(ranks=(0, 1.0, 2, 3)), 'are not integers from 0 up'),
    (dict(ranks=(0, -1, 1, 2)), 'are not integers from 0 up'),
    (dict(metadata=({'overall': 7},) * 3), 'metadata has 3 entries for 4'),
    (
      dict(metadata=({'overall': 7},) * 3 + ({'x': 1},)),
      r'metadata\[3\] has other keys than metadata\[0\]',
    ),
    (
      dict(metadata=({'overall': 8},) * 4),
      r"metadata\[0\]\['overall'\] is 8, neither a flag",
    ),
    (dict(metadata=('x',) * 4), r'metadata\[0\] is str, not a dict'),
  ],
)
def test_bad_rankings(change, reason):
  with pytest.raises(RecordError, match=reason):
    validate(dataclasses.replace(RANKING, **change))


def test_a_ranking_needs_two_responses_and_no_metadata():
  one = dataclasses.replace(
    RANKING,
    responses=('a',),
    response_tokens=((2,),),
    sources=('sft',),
    temperatures=(1.0,),
    ranks=(0,),
    metadata=(),
  )
  with pytest.raises(RecordError, match='needs 2 responses or more, it has 1'):
    validate(one)
  validate(dataclasses.replace(RANKING, metadata=()))
  validate(dataclasses.replace(RANKING, ranks=(0, 0, 0, 0)))


def test_limits_can_be_set(monkeypatch):
  monkeypatch.setattr(records, 'LIMITS', records.Limits(prompt_chars=5))
  with pytest.raises(RecordError, match='the limit is 5'):
    validate(PROMPT)


def test_not_a_record():
  with pytest.raises(RecordError, match='dict is not a record type'):
    validate({})


def other(**changes):
  return dataclasses.replace(
    PROMPT,
    **{
      'id': 'p2',
      'text': 'Who is Ben?',
      'user': 'u2',
      'split': 'validation',
      **changes,
    },
  )


@pytest.mark.parametrize(
  'changes, shared',
  [
    (dict(id='p1'), "its id \\('p1'\\)"),
    (dict(text=' where  was MARA born?'), 'its text'),
    (dict(user='u1'), "its user \\('u1'\\)"),
  ],
)
def test_a_prompt_on_both_sides_is_refused(changes, shared):
  records.check_no_leak([PROMPT, RANKING], [other()])
  with pytest.raises(ValueError, match=f"shares {shared}.*prompt 'p1'"):
    records.check_no_leak([RANKING], [other(), other(**changes)])


def test_unknown_users_are_not_one_user():
  records.check_no_leak(
    [dataclasses.replace(PROMPT, user='')], [other(user='')]
  )


def test_an_accent_may_be_a_character_of_its_own():
  assert records.fold('CAF\u00c9  x') == records.fold('cafe\u0301 X')
  assert records.fold('cafe') != records.fold('caf\u00e9')
