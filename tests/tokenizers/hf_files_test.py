"""What a Hugging Face folder says of its tokenizer, and the choice of PAD."""

import json

import pytest

from instructrl.tokenizers import hf_files
from tests import tokenizer_families as families

END = '<|endoftext|>'


def source(specials=(END,), plain=(), rows=0, template=None, **roles):
  tokenizer = families.bpe(specials, plain=plain)
  return hf_files.TokenizerSource(
    tokenizer, {'eos_token': specials[0], **roles}, None, template, rows
  )


@pytest.mark.parametrize(
  'specials,plain,pad',
  [
    ([END, '<pad>'], [], '<pad>'),
    ([END, '[PAD]', '<|reserved_0|>'], [], '[PAD]'),
    (
      [END, '<|reserved_0|>', '<|finetune_right_pad_id|>'],
      [],
      '<|finetune_right_pad_id|>',
    ),
    ([END, '<|image_pad|>', '<|reserved_7|>'], [], '<|reserved_7|>'),
    ([END], ['<unused0>', '<unused1>'], '<unused0>'),
    ([END, '<empty_output>'], [], '<empty_output>'),
    (['<|im_end|>', END], [], END),
    (
      [END, '<|vision_pad|>', '<|fim_pad|>', '<padding_left_foot>'],
      [],
      '<padding_left_foot>',
    ),
    ([END, '<launchpad>'], [], '<|pad|>'),
    ([END, '<|pad|>x', 'a<|pad|>'], [], '<|pad|>x'),
  ],
)
def test_pad_is_what_nothing_else_uses(specials, plain, pad):
  found = hf_files.choose_pad(source(specials, plain), 0, ends={specials[0]})
  assert found.token == pad
  assert found.new == found.added == (pad not in (*specials, *plain))


def test_pad_is_not_what_the_template_or_an_end_uses():
  taken = source([END, '<pad>', '<unused1>'], template="{{ '<pad>' }}")
  assert hf_files.choose_pad(taken, 0, ends={END}).token == '<unused1>'
  own = source([END, '<pad>'], pad_token='<pad>')
  assert hf_files.choose_pad(own, 0, ends={END}).token == '<pad>'
  pad = hf_files.choose_pad(own, 0, ends={END, '<pad>'})
  assert (pad.token, pad.added) == ('<|pad|>', True)
  assert 'its own PAD <pad> ends a text' in pad.note


def test_a_row_without_a_token_comes_before_a_new_one():
  num = len(source().ids())
  for rows, given, added in (
    (num + 1, 0, False),
    (num, 0, True),
    (0, 0, True),
    (num, num + 9, False),
  ):
    pad = hf_files.choose_pad(source(rows=rows), given, ends={END})
    assert (pad.id, pad.new, pad.added) == (num, True, added)


def test_all_files_are_read(tmp_path):
  folder = families.write(
    tmp_path,
    families.bpe([END, '<s>']),
    rows=600,
    model_max_length=99,
    add_bos_token=True,
    bos_token={'content': '<s>', 'special': True},
  )
  (folder / 'special_tokens_map.json').write_text(
    json.dumps({'eos_token': {'content': END}, 'bos_token': 'not this'})
  )
  num = 2 + len(families.bpe([])['model']['vocab'])
  (folder / 'added_tokens.json').write_text(json.dumps({'<tool>': num}))
  (folder / 'chat_template.jinja').write_text('x')
  found = hf_files.read_folder(folder)
  assert found.roles == {'bos_token': '<s>', 'eos_token': END}
  assert (found.begin, found.rows, found.chat_template) == ('<s>', 600, 'x')
  assert found.config == {'model_max_length': 99}
  assert found.ids()['<tool>'] == num and '<tool>' not in found.specials()


def test_ends_may_stand_in_the_config_of_the_model(tmp_path):
  families.write(tmp_path, families.bpe([END]))
  with pytest.raises(ValueError, match='no token ends a text: give eos_token'):
    hf_files.read_folder(tmp_path)
  num = len(families.bpe([])['model']['vocab'])
  (tmp_path / 'generation_config.json').write_text(
    json.dumps({'eos_token_id': [num, 3]})
  )
  assert hf_files.read_folder(tmp_path).roles['eos_token'] == END
  (tmp_path / 'config.json').write_text(
    json.dumps({'text_config': {'eos_token_id': 5, 'vocab_size': 7}})
  )
  found = hf_files.read_folder(tmp_path)
  assert found.ids()[found.roles['eos_token']] == 5 and found.rows == 7


def test_the_template_called_default_is_taken(tmp_path):
  families.write(
    tmp_path,
    families.bpe([END]),
    eos_token=END,
    chat_template=[
      {'name': 'tool_use', 'template': 'a'},
      {'name': 'default', 'template': 'b'},
    ],
  )
  assert hf_files.read_folder(tmp_path).chat_template == 'b'


@pytest.mark.parametrize(
  'name,content,message',
  [
    ('tokenizer.json', '{"model"', 'tokenizer.json is damaged'),
    ('tokenizer.json', '{}', 'tokenizer.json is damaged'),
    (
      'tokenizer.json',
      '{"model": {"vocab": {}, "type": "X"}}',
      'tokenizer.json is damaged',
    ),
    (  # the library's Rust code panics
      'tokenizer.json',
      '{"model": {"type": "BPE", "continuing_subword_prefix": "##", "vocab": '
      '{"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}',
      'tokenizer.json is damaged',
    ),
    ('tokenizer_config.json', '[]', 'tokenizer_config.json is damaged'),
    (
      'chat_template.jinja',
      'version https://git-lfs.github.com/spec/v1',
      'chat_template.jinja is a pointer of git-lfs',
    ),
    ('added_tokens.json', '{"<|endoftext|>": 1}', 'in tokenizer.json and 1 in'),
    (
      'tokenizer_config.json',
      '{"eos_token": "</s>"}',
      "has no token '</s>' \\(eos_token",
    ),
  ],
)
def test_damage_is_named(tmp_path, name, content, message):
  families.write(tmp_path, families.bpe([END]), eos_token=END)
  (tmp_path / name).write_text(content)
  with pytest.raises(ValueError, match=message) as error:
    hf_files.read_folder(tmp_path)
  assert str(tmp_path) in str(error.value)


def test_an_id_that_the_library_cannot_give_is_refused():
  pad = hf_files.Pad('<|pad|>', 10_000, True, True, '')
  with pytest.raises(ValueError, match='should have the id 10000'):
    hf_files.with_tokens(source(), {END}, pad)


def test_added_tokens_beyond_the_embedding_are_left_out():
  whole = source([END, '<pad>', '<picture>'])
  num = len(whole.ids())
  assert hf_files.within(whole, num) is hf_files.within(whole, 0) is whole
  kept = hf_files.within(whole, num - 1)
  assert set(whole.ids()) - set(kept.ids()) == {'<picture>'}
  with pytest.raises(ValueError, match=f"token '<.*has {num - 3} rows"):
    hf_files.within(whole, num - 3)
  with pytest.raises(ValueError, match='the embedding has 9 rows'):
    hf_files.within(whole, 9)
