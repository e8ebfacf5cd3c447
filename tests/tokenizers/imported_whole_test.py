"""Imported tokenizers give the ids of the library, or are refused by token."""

import json

import pytest
import tokenizers
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

from instructrl.tokenizers import chat_template
from instructrl.tokenizers.imported import HFTokenizer
from instructrl.tokenizers.layout import literal
from tests import tokenizer_families as families

TEXTS = ('a', ' a b ', '\n\n a\n', 'tab\there', '汉字 テスト', 'The end.\n')
# A template whose answers have no end, and white space after them.
WITHOUT_END = (
  "{% for m in messages %}{% if m['role'] == 'user' %}"
  "{{ 'User: ' + m['content'] + '\n\nBot:' }}"
  "{% else %}{{ ' ' + m['content'] + '\n\n' }}{% endif %}{% endfor %}"
)
# White space beside the special tokens, as in Phi-3.
SPACED = (
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] "
  "+ '<|im_end|>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MACRO = (
  "{% macro say(m) %}{{ m['role'] + '> ' + m['content'] + '\n' }}"
  '{% endmacro %}{% set ns = namespace(n=0) %}{% for m in messages %}'
  '{% set ns.n = 1 %}{{ say(m) }}{% endfor %}'
  "{% if add_generation_prompt %}{{ 'assistant> ' }}{% endif %}"
)
# The end is written between turns only.
BETWEEN = (
  "{% for m in messages %}{% if m['role'] == 'user' %}"
  "{{ '[U]' + m['content'] + '[B]' }}{% else %}{{ m['content'] }}"
  '{% if not loop.last %}{{ eos_token }}{% endif %}{% endif %}{% endfor %}'
)


def trained(folder, kind, **config):
  """A tokenizer whose vocabulary cannot write every text."""
  model, trainer, options = {
    'bpe': (models.BPE(unk_token='<unk>'), trainers.BpeTrainer, {}),
    'unigram': (
      models.Unigram(),
      trainers.UnigramTrainer,
      {'unk_token': '<unk>'},
    ),
    'words': (
      models.WordLevel(unk_token='<unk>'),
      trainers.WordLevelTrainer,
      {},
    ),
  }[kind]
  tok = tokenizers.Tokenizer(model)
  tok.pre_tokenizer = pre_tokenizers.Whitespace()
  specials = ['<unk>', '<s>', '</s>']
  tok.train_from_iterator(
    families.LINES, trainer(special_tokens=specials, vocab_size=200, **options)
  )
  return families.write(
    folder,
    json.loads(tok.to_str()),
    **{'eos_token': '</s>', 'unk_token': '<unk>', **config},
  )


def changed(folder, change, **config):
  """The tokenizer of SmolLM's family, changed."""
  path = families.made(folder)['smollm']
  for name, how in (
    ('tokenizer.json', change),
    ('tokenizer_config.json', lambda found: found.update(config)),
  ):
    found = json.loads((path / name).read_text())
    how(found)
    (path / name).write_text(json.dumps(found))
  return path


def with_flags(**flags):
  def change(tokenizer):
    for token in tokenizer['added_tokens']:
      token.update(flags)

  return change


def assert_equal(tok, folder):
  """Texts and laid-out dialogues have the ids of what is exported."""
  folder.mkdir()
  tok.write_files(folder, tok.vocab_size)
  library = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  ids = lambda text: library.encode(text, add_special_tokens=False).ids
  template = (folder / 'chat_template.jinja').read_text()
  config = json.loads((folder / 'tokenizer_config.json').read_text())
  roles = {name: config[name] for name in config if name.endswith('_token')}
  for text in TEXTS:
    assert tok.encode(text) == ids(text)
    turns = [{'role': 'user', 'content': text}]
    show = lambda messages, opens: ids(
      chat_template.render(
        template, messages, add_generation_prompt=opens, variables=roles
      )
    )
    prompt = tok.prompt(text)
    assert prompt == show(turns, True)
    for answer in TEXTS:
      found = show([*turns, {'role': 'assistant', 'content': answer}], False)
      if found[: len(prompt)] == prompt:  # else a merge spans the border
        both = [*prompt, *tok.response(answer)]
        assert found[: len(both)] == both
        assert both[-1] == tok.eos_id


@pytest.mark.parametrize('pad', ['<unk>', '</s>', None])
@pytest.mark.parametrize('kind', ['bpe', 'unigram', 'words'])
def test_a_pad_is_no_token_that_text_gives(tmp_path, kind, pad):
  tok = HFTokenizer.from_folder(trained(tmp_path / kind, kind, pad_token=pad))
  assert tok.pad_id not in (tok.unk_id, tok.eos_id)
  assert tok.unk_id in tok.encode('汉')
  assert ('<unk> is the unknown' in tok.pad_note) == (pad == '<unk>')
  assert_equal(tok, tmp_path / 'out')


def test_an_unknown_token_that_ends_a_text_is_refused(tmp_path):
  folder = trained(tmp_path / 'src', 'words', eos_token='<unk>')
  with pytest.raises(ValueError, match='<unk> .unknown text, and an end'):
    HFTokenizer.from_folder(folder)


@pytest.mark.parametrize('template', [families.CHATML, SPACED, WITHOUT_END, ''])
@pytest.mark.parametrize(
  'flags',
  [
    dict(rstrip=True),
    dict(lstrip=True),
    dict(lstrip=True, rstrip=True),
    dict(normalized=True),
  ],
)
def test_tokens_that_take_the_space_beside_them(tmp_path, flags, template):
  config = dict(chat_template=template, bos_token='<|im_start|>')
  folder = changed(tmp_path / 'src', with_flags(**flags), **config)
  assert_equal(HFTokenizer.from_folder(folder), tmp_path / 'out')


def test_tokens_that_are_words_are_refused(tmp_path):
  folder = changed(tmp_path, with_flags(single_word=True))
  with pytest.raises(ValueError, match=r'<\|im_end\|> .single_word'):
    HFTokenizer.from_folder(folder)


def test_a_prefix_of_two_minds_is_refused(tmp_path):
  config = dict(tokenizer_class='GPT2TokenizerFast', add_prefix_space=True)
  folder = changed(tmp_path, lambda found: None, **config)
  with pytest.raises(ValueError, match='add_prefix_space is True in'):
    HFTokenizer.from_folder(folder)


@pytest.mark.parametrize(
  'template', [WITHOUT_END, WITHOUT_END + '\n', MACRO, BETWEEN]
)
def test_an_export_ends_an_answer_as_training_did(tmp_path, template):
  folder = changed(tmp_path / 'src', lambda found: None, chat_template=template)
  tok = HFTokenizer.from_folder(folder)
  assert_equal(tok, tmp_path / 'out')
  exported = (tmp_path / 'out' / 'chat_template.jinja').read_text()
  assert literal('<|im_end|>') in exported
  show = lambda *turns: chat_template.render(
    exported,
    [
      {'role': ('user', 'assistant')[i % 2], 'content': turn}
      for i, turn in enumerate(turns)
    ],
    add_generation_prompt=False,
    variables={'eos_token': '<|im_end|>'},
  )
  assert show('Hi', 'Fine').endswith('Fine<|im_end|>')
  assert show('Hi', 'Fine', 'So?', 'Yes').endswith('Yes<|im_end|>')
