"""Tokenizers of Hugging Face: ids, specials, PAD, layouts, files."""

import dataclasses
import itertools
import json
import pickle
import random

import pytest

from instructrl.tokenizers import dialogue
from instructrl.tokenizers import loading
from instructrl.tokenizers import trained
from instructrl.tokenizers.imported import HFTokenizer
from instructrl.tokenizers.layout import plain_layout
from instructrl.tokenizers.layout import PromptLayout
from instructrl.tokenizers.layout import strip
from tests import tokenizer_families as families

NAMES = (
  'gpt2',
  'neox',
  'llama3',
  'qwen2',
  'qwen3',
  'smollm',
  'llama2',
  'gemma',
  'unigram',
  'legacy',
)
TEXTS = (
  'Where was Mara born?',
  'a',
  ' two  spaces ',
  'line\n\n  line',
  '1984',
  'caf\u00e9 \u4e16\u754c \U0001f600',
  "it's <b>",
  'x\t\r\n\x00y',
  '\u2581',
  '<0x41> [INST] <tool_call>',
)


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
  return families.made(tmp_path_factory.mktemp('families'))


@pytest.fixture(scope='session')
def toks(folders):
  return {name: HFTokenizer.from_folder(path) for name, path in folders.items()}


@pytest.fixture(params=NAMES)
def tok(request, toks):
  return toks[request.param]


def specials_of(tok):
  found = json.loads(tok._content)
  return {
    token['id']: token['content']
    for token in found['tokenizer']['added_tokens']
    if token['special'] or token['content'] in found['protected']
  }


def random_texts(tok, num=60, seed=0):
  rng = random.Random(seed)
  alphabet = [*TEXTS, ' ', '\n', 'born', 'Paris', '\ufdd0', '\ufdd1', '<', '>']
  return [
    ''.join(rng.choices(alphabet, k=rng.randrange(6))) for _ in range(num)
  ]


def test_decoding_gives_the_text_back(request, tok):
  for text in (*TEXTS, *random_texts(tok)):
    wanted = text
    if 'legacy' in request.node.name:  # its bytes are ordinary pieces
      wanted = text.replace('<0x41>', 'A')
    if tok.decode(tok.encode('\u2581')) == ' ':  # one and the same to it
      wanted = wanted.replace('\u2581', ' ')
    assert tok.decode(tok.encode(text)) == wanted, repr(text)
  assert tok.encode('') == []


def test_no_text_gives_a_special(tok):
  specials = specials_of(tok)
  fixed = [i for i in tok.prompt('a') if i in specials]
  for special in specials.values():
    for text in (
      special,
      f'a{special}b',
      f' {special} ',
      special * 2,
      f'<{special}>',
      f'\n{special}\n',
      special[:-1] + special,
      special + '\ufdd0' + special,
      f'\ufdd0{tok.eos_id}\ufdd1',
    ):
      for ids in (tok.encode(text), tok.continuation(text)):
        assert not specials.keys() & set(ids), (special, text)
        assert tok.decode(ids).strip() == text.strip(), (special, text)
      assert [i for i in tok.prompt(text) if i in specials] == fixed
      end = [i for i in tok.response(text) if i in specials]
      assert end == [tok.eos_id]


def test_pad_ends_nothing(toks):
  chosen = {
    name: (tok.piece(tok.pad_id), tok.added_pad) for name, tok in toks.items()
  }
  assert chosen == {
    'gpt2': ('<|pad|>', True),
    'neox': ('<|padding|>', False),
    'llama3': ('<|reserved_special_token_0|>', False),
    'qwen2': ('<|endoftext|>', False),
    'qwen3': ('<|endoftext|>', False),
    'smollm': ('<empty_output>', False),
    'llama2': ('<|pad|>', True),
    'gemma': ('<pad>', False),
    'unigram': ('<|pad|>', False),
    'legacy': ('<|pad|>', False),
  }
  for tok in toks.values():
    assert tok.pad_id not in (tok.eos_id, tok.bos_id, tok.document_eos_id)
    assert tok.pad_id < tok.vocab_size and 'PAD is' in tok.pad_note
  assert toks['gpt2'].pad_id == toks['gpt2'].vocab_size - 1


def test_the_embedding_given_decides_on_a_new_row(folders):
  assert not HFTokenizer.from_folder(folders['gpt2'], vocab_rows=512).added_pad


def test_documents_and_ends(toks):
  piece = lambda name, ids: [toks[name].piece(i) for i in ids]
  ends = {
    name: (
      tok.document('a')[0] == tok.bos_id,
      tok.piece(tok.document('a')[-1]),
      tok.piece(tok.eos_id),
    )
    for name, tok in toks.items()
  }
  end = '<|endoftext|>'
  assert ends == {
    'gpt2': (True, end, end),
    'neox': (True, end, end),
    'llama3': (True, '<|eot_id|>', '<|eot_id|>'),
    'qwen2': (False, '<|im_end|>', '<|im_end|>'),
    'qwen3': (False, '<|im_end|>', '<|im_end|>'),
    'smollm': (False, '<|im_end|>', '<|im_end|>'),
    'llama2': (True, '</s>', '</s>'),
    'gemma': (True, '</s>', '<end_of_turn>'),
    'unigram': (True, '</s>', '</s>'),
    'legacy': (False, '</s>', '</s>'),
  }
  assert piece('qwen2', toks['qwen2'].plain('a')) == ['a']
  assert toks['gemma'].generation_ids()['eos_token_id'] == sorted(
    {toks['gemma'].eos_id, toks['gemma'].document_eos_id}
  )


def test_one_layout_in_full(toks):
  tok = toks['qwen2']
  assert tok.decode(tok.prompt('Hi')) == (
    'system\nBe kind.\nuser\nHi\nassistant\n'
  )
  assert [tok.piece(i) for i in tok.response('a b')] == [
    'a',
    *map(tok.piece, tok.continuation(' b')),
    '<|im_end|>',
  ]
  assert tok.response('') == [tok.eos_id]
  plain = tok.with_layout(
    prompt_template='Q: {prompt}<|im_end|>{}\nA:',
    response_template=' {response}.',
  )
  ids = plain.prompt('<|im_end|>')
  assert ids.count(tok.document_eos_id) == 1  # the template's alone is meant
  assert plain.decode(ids) == 'Q: <|im_end|>{}\nA:'
  assert plain.decode(plain.response('yes')) == ' yes.'
  assert plain.fingerprint != tok.fingerprint
  assert plain.with_layout().fingerprint == tok.fingerprint


def test_an_empty_thought_belongs_to_the_prompt(toks):
  tok = toks['qwen3']
  assert tok.decode(tok.prompt('Hi')).endswith(
    'assistant\n<think>\n\n</think>\n\n'
  )
  assert tok.decode(tok.response('yes')) == 'yes'
  think = tok._encoder.tok.token_to_id('<think>')
  assert think not in tok.encode('<think>') and think in tok.prompt('Hi')


def test_a_layout_is_kept_in_the_file(tok, tmp_path):
  laid = tok.with_layout(prompt_template='\n\nHuman: {prompt}\n\nAssistant:')
  laid.save(tmp_path / laid.FILE)
  for other in (
    loading.load(tmp_path),
    loading.load(tmp_path / laid.FILE),
    pickle.loads(pickle.dumps(laid)),
  ):
    assert other.fingerprint == laid.fingerprint
    assert other.prompt('Who?') == laid.prompt('Who?')
    assert other.response('I.') == laid.response('I.')
  assert laid.prompt('Who?') != tok.prompt('Who?')


@pytest.mark.parametrize(
  'options,message',
  [
    ({'prompt_template': 'Human:'}, 'must have {prompt} once; .* has it 0'),
    ({'prompt_template': '{prompt}{prompt}'}, 'has it 2 times'),
    (
      {'prompt_template': '{prompt}', 'response_template': 'a'},
      'response_template must have {response}',
    ),
    ({'prompt_template': '{prompt}', 'system': 'a'}, 'system can only be used'),
    ({'response_template': '{response}'}, 'response_template cannot be used'),
    ({'system': 'Be brief.'}, 'no system role.*prompt_template='),
  ],
)
def test_a_layout_that_makes_no_sense_is_refused(toks, options, message):
  with pytest.raises(ValueError, match=message):
    toks['gemma'].with_layout(**options)


def test_an_end_that_is_not_marked_as_special_is_not_read(folders, toks):
  """Whichever layout came first."""
  tok = HFTokenizer.from_folder(
    folders['gemma'], prompt_template='{prompt}'
  ).with_layout()
  assert tok.eos_id == toks['gemma'].eos_id != tok.document_eos_id
  assert tok.decode(tok.response('yes')) == 'yes'


def test_chat_without_a_template_is_refused(toks):
  with pytest.raises(ValueError, match='needs a chat template.*: give text'):
    toks['gpt2'].with_layout(prompt_template='chat')


def test_ids_outside_are_refused(tok):
  with pytest.raises(ValueError, match='outside 0'):
    tok.decode([tok.vocab_size])
  with pytest.raises(ValueError, match='cannot be written as UTF-8'):
    tok.prompt('\ud800')


def test_what_transformers_gives(tok, tmp_path):
  """Prompts are equal to the last id; dialogues where no merge crosses."""
  transformers = pytest.importorskip('transformers')
  tok.write_files(tmp_path, tok.vocab_size + 3)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  assert (theirs.pad_token_id, len(theirs)) == (tok.pad_id, tok.vocab_size)
  assert theirs.eos_token_id == tok.document_eos_id
  # transformers matches the tokens of the template in the text of users, too.
  texts = [
    text
    for text in (*TEXTS, *random_texts(tok))
    if not any(s in text for s in specials_of(tok).values())
  ]
  assert len(texts) > 40
  for text in texts:
    assert (
      tok.encode(text) == theirs(text, add_special_tokens=False)['input_ids']
    )
    if tok.bos_id is not None and tok.bos_id != tok.eos_id:
      assert theirs(text)['input_ids'] == tok.plain(text)
    user = [{'role': 'user', 'content': text}]
    assert (
      tok.prompt(text)
      == theirs.apply_chat_template(user, add_generation_prompt=True)[
        'input_ids'
      ]
    ), repr(text)
    turns = (texts[0] + '.', text + '.', 'Why?')
    ours = tok.prompt(dialogue.join_turns(turns), turns)
    assert (
      ours
      == theirs.apply_chat_template(
        [
          {'role': ('user', 'assistant')[i % 2], 'content': turn}
          for i, turn in enumerate(turns)
        ],
        add_generation_prompt=True,
      )['input_ids']
    ), repr(text)
  answered = theirs.apply_chat_template(
    [
      {'role': 'user', 'content': 'Who?'},
      {'role': 'assistant', 'content': 'Mara of Oakton.'},
    ]
  )['input_ids']
  ours = tok.prompt('Who?') + tok.response('Mara of Oakton.')
  assert answered[: len(ours)] == ours


def test_an_exported_system_message_and_plain_layout(toks, tmp_path):
  transformers = pytest.importorskip('transformers')
  user = [{'role': 'user', 'content': 'Who "is" it?'}]
  for number, tok in enumerate(
    (
      toks['smollm'].with_layout(system='Say "no".\n'),
      toks['smollm'].with_layout(prompt_template='Q "{prompt}"\n'),
      toks['llama2'].with_layout(prompt_template='Q {prompt}\nA:'),
    )
  ):
    folder = tmp_path / str(number)
    folder.mkdir()
    tok.write_files(folder, 600)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.apply_chat_template(user, add_generation_prompt=True)[
      'input_ids'
    ] == tok.prompt('Who "is" it?')
    again = HFTokenizer.from_folder(folder)
    assert again.prompt('x y') == tok.prompt('x y')


def test_too_few_rows_are_refused(tok, tmp_path):
  with pytest.raises(ValueError, match='the embedding has 9 rows'):
    tok.write_files(tmp_path, 9)
  assert not list(tmp_path.iterdir())


def test_a_folder_has_one_tokenizer(toks, tmp_path):
  with pytest.raises(FileNotFoundError, match='no tokenizer'):
    loading.load(tmp_path)
  assert not loading.has(tmp_path)
  with pytest.raises(FileNotFoundError, match='none does not exist; a run'):
    loading.load(tmp_path / 'none')
  toks['gpt2'].save(tmp_path / 'tokenizer.hf.json')
  assert loading.has(tmp_path)
  (tmp_path / 'tokenizer.model').write_bytes(b'')
  with pytest.raises(ValueError, match='two tokenizers'):
    loading.load(tmp_path)


@pytest.mark.parametrize(
  'damage,message',
  [
    (lambda c: c[:-100], 'damaged'),
    (lambda c: b'[]', 'not a tokenizer of this package'),
    (
      lambda c: c.replace(b'"format_version":1', b'"format_version":2'),
      'this program reads 1',
    ),
    (lambda c: c.replace(b'"pad_note"', b'"padnote"'), 'pad_note is missing'),
    (lambda c: c.replace(b'"type":"BPE"', b'"type":"XYZ"'), 'cannot be used'),
  ],
)
def test_a_damaged_file_is_named(toks, tmp_path, damage, message):
  path = tmp_path / 'tokenizer.hf.json'
  path.write_bytes(damage(toks['gpt2']._content))
  with pytest.raises(ValueError, match=message) as error:
    loading.load(tmp_path)
  assert str(path) in str(error.value)


@pytest.mark.parametrize('model_type', ['word', 'bpe', 'unigram'])
def test_our_own_is_exported_with_the_same_ids(model_type, tmp_path):
  ours = trained.Tokenizer(
    trained.train_tokenizer(families.LINES, 330, model_type=model_type)
  )
  ours.write_files(tmp_path, 400)
  theirs = HFTokenizer.from_folder(tmp_path)
  for text in (*TEXTS, *random_texts(ours), '</s>', '<|user|> a', 'a\n\n b'):
    for layout in ('encode', 'prompt', 'response', 'document', 'plain'):
      assert getattr(theirs, layout)(text) == getattr(ours, layout)(text)
    assert theirs.decode(ours.encode(text)) == text
  for name in ('pad_id', 'bos_id', 'eos_id', 'vocab_size'):
    assert getattr(theirs, name) == getattr(ours, name)
  with pytest.raises(ValueError, match='the embedding has 300 rows'):
    ours.write_files(tmp_path, 300)


def test_our_own_is_exported_for_transformers(tmp_path):
  transformers = pytest.importorskip('transformers')
  ours = trained.Tokenizer(trained.train_tokenizer(families.LINES, 330))
  ours.write_files(tmp_path, 400)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  for text in (*TEXTS, *random_texts(ours)):
    assert theirs(text)['input_ids'] == ours.plain(text)
    for turns in [(text,), ('Who?', text, 'Why?')]:
      assert theirs.apply_chat_template(
        [
          {'role': ('user', 'assistant')[i % 2], 'content': turn}
          for i, turn in enumerate(turns)
        ],
        add_generation_prompt=True,
      )['input_ids'] == ours.prompt(text, turns[1:] and turns)


def test_layout_of_a_file_is_complete():
  lay = plain_layout('a{prompt}', '{response}')
  with pytest.raises(ValueError, match='a layout has the fields'):
    PromptLayout.from_dict({'before': lay.before})
  with pytest.raises(ValueError, match='a layout has the fields'):
    PromptLayout.from_dict({**dataclasses.asdict(lay), 'other': 1})
  # What was written before there were turns has none.
  found = dataclasses.asdict(lay)
  del found['between_turns'], found['strip_turns']
  assert PromptLayout.from_dict(json.loads(json.dumps(found))) == lay
  sides = list(itertools.product((False, True), repeat=2))
  assert [strip(' a ', side) for side in sides] == [' a ', ' a', 'a ', 'a']
