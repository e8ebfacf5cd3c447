"""Tests of the tokenizer."""

import pickle

import numpy as np
import pytest
import sentencepiece

from instructrl.tokenizers.trained import SPECIAL_PIECES
from instructrl.tokenizers.trained import Tokenizer
from instructrl.tokenizers.trained import train_tokenizer

PEOPLE = ('Mara', 'Tobin', 'Selka', 'Orrin', 'Wyla', 'Brannoc')
TOWNS = ('Oakton', 'Fenwick', 'Porthaven', 'Glasmere', 'Stanhope')
FOODS = ('apples', 'bread', 'cheese', 'plums', 'soup')
TYPED = (*SPECIAL_PIECES, '<0x41>', '<0x0A>', '<n>', '[INST]')


def make_texts(num=400, seed=0):
  rng = np.random.default_rng(seed)
  texts = []
  for _ in range(num):
    person, town, food = (
      str(rng.choice(names)) for names in (PEOPLE, TOWNS, FOODS)
    )
    texts.append(
      f'{person} was born in {town}. {person} likes {food}.\n'
      f'Where was {person} born?\n{town}.\n'
    )
  return texts


@pytest.fixture(scope='module')
def model():
  return train_tokenizer(make_texts(), 360)


@pytest.fixture(scope='module')
def tokenizer(model):
  return Tokenizer(model)


@pytest.mark.parametrize('model_type', ['word', 'bpe', 'unigram'])
def test_training_is_deterministic(model_type):
  first, second = (
    train_tokenizer(make_texts(), 360, model_type=model_type) for _ in range(2)
  )
  assert first == second
  assert Tokenizer(first).fingerprint == Tokenizer(second).fingerprint
  other = train_tokenizer(make_texts(seed=1), 360, model_type=model_type)
  assert first != other


def test_special_ids_are_the_fixed_ones(tokenizer):
  ids = (
    tokenizer.pad_id,
    tokenizer.bos_id,
    tokenizer.eos_id,
    tokenizer.unk_id,
    tokenizer.user_id,
    tokenizer.assistant_id,
  )
  assert ids == (0, 1, 2, 3, 4, 5)
  assert [tokenizer.piece(i) for i in ids] == [
    '<pad>',
    '<s>',
    '</s>',
    '<unk>',
    '<|user|>',
    '<|assistant|>',
  ]


@pytest.mark.parametrize('typed', TYPED)
def test_typed_specials_stay_text(tokenizer, typed):
  for text in (typed, f'hi {typed} there', f'a{typed}b', f'{typed}\n{typed}'):
    ids = tokenizer.encode(text)
    assert min(ids) > 5, text
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize('model_type', ['word', 'bpe', 'unigram'])
def test_specials_in_the_training_text_stay_text(model_type):
  texts = [f'{text} {typed}' for text in make_texts() for typed in TYPED]
  tokenizer = Tokenizer(train_tokenizer(texts, 400, model_type=model_type))
  for typed in TYPED:
    ids = tokenizer.encode(f'hi {typed} there')
    assert min(ids) > 5
    assert tokenizer.decode(ids) == f'hi {typed} there'


@pytest.mark.parametrize(
  'text',
  [
    '',
    ' ',
    '  ',
    '\n',
    '\n\n a',
    ' a\n',
    'a  b',
    '   lead',
    'trail   ',
    'tab\there',
    '\r\n',
    'a\x00b',
    '\u2581',
    ' \u2581 x\u2581\u2581\n\u2581y',
    '\u2585\u2047',
    '\ufeffbom',
    'naïve café',
    '漢字かな',
    '🙂👩‍🚀',
    'e\u0301',
    '\u00a0nbsp\u3000',
    '\u2028line',
    'ﬁ Ⅷ ½',
    '<|user|>\n</s>',
    'Mara was born in Oakton.\nMara',
  ],
)
def test_round_trip(tokenizer, text):
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids) == text
  assert tokenizer.unk_id not in ids


def test_round_trip_of_random_unicode(tokenizer):
  rng = np.random.default_rng(0)
  alphabet = (
    list(' \n\t\u2581ab.<|>/s')
    + [chr(c) for c in rng.integers(0xE000, 0x10FFFF, 50)]
    + [chr(c) for c in rng.integers(1, 0xD7FF, 200)]
  )
  for _ in range(300):
    text = ''.join(rng.choice(alphabet, size=rng.integers(1, 30)))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert min(ids) > 5


def test_newline_is_a_piece_of_its_own(tokenizer):
  newline = tokenizer.encode('\n')
  assert len(newline) == 1
  assert tokenizer.encode('Mara.\n\nMara').count(newline[0]) == 2
  pieces = [tokenizer.piece(i) for i in range(tokenizer.vocab_size)]
  assert [p for p in pieces if '\n' in p] == ['\n']


def test_a_word_is_one_token_and_the_same_everywhere(tokenizer):
  for word in (*PEOPLE, *TOWNS, *FOODS, 'was', 'born', 'in'):
    ids = tokenizer.encode(word)
    assert len(ids) == 1, word
    assert tokenizer.encode(f'Mara was\n{word}')[-1:] == ids


def test_encoding_composes_at_word_boundaries(tokenizer):
  encode = tokenizer.encode
  assert encode('Mara was') + encode('born') == encode('Mara was born')
  assert encode('Mara?\n') + encode('Oakton') == encode('Mara?\nOakton')


def test_a_dialogue_is_laid_out_turn_by_turn(tokenizer):
  got = tokenizer.prompt('', ('Who?', 'Mara.', 'Why?'))
  assert got == [
    *tokenizer.prompt('Who?'),
    *tokenizer.response('Mara.'),
    *tokenizer.prompt('Why?')[1:],
  ]  # BOS is at the start only


def test_decode_drops_specials_and_refuses_unknown_ids(tokenizer):
  prompt, response = tokenizer.encode('Where?'), tokenizer.encode('Oakton.')
  assert tokenizer.decode([1, 4, *prompt, 5, *response, 2, 0, 3]) == (
    'Where? Oakton.'
  )
  assert tokenizer.decode(np.array(response, np.int32)) == 'Oakton.'
  assert tokenizer.decode([]) == ''
  with pytest.raises(ValueError, match=f'token id {tokenizer.vocab_size} '):
    tokenizer.decode([tokenizer.vocab_size])
  with pytest.raises(ValueError, match='token id -1 '):
    tokenizer.decode([-1])


def test_stray_bytes_decode_to_the_replacement_character(tokenizer):
  byte = tokenizer.encode('\u2581')[1]
  assert tokenizer.decode([byte]) == '\ufffd'


def test_save_load_and_pickle_keep_the_tokenizer(tokenizer, tmp_path):
  path = tmp_path / 'tokenizer.model'
  tokenizer.save(path)
  for other in (Tokenizer.load(path), pickle.loads(pickle.dumps(tokenizer))):
    assert other.fingerprint == tokenizer.fingerprint
    assert other.encode('Mara likes soup.') == tokenizer.encode(
      'Mara likes soup.'
    )
  assert [p.name for p in tmp_path.iterdir()] == ['tokenizer.model']


def test_a_large_vocab_size_gives_what_the_text_supports():
  model = train_tokenizer(['a small text'], 5000)
  tokenizer = Tokenizer(model)
  assert 263 < tokenizer.vocab_size < 5000
  assert tokenizer.decode(tokenizer.encode('a small text')) == 'a small text'


def test_errors_say_what_is_wrong(tmp_path):
  with pytest.raises(ValueError, match='there is no text'):
    train_tokenizer(['', '\n'], 400)
  with pytest.raises(ValueError, match='vocab_size 264 on 1200 lines'):
    train_tokenizer(make_texts(), 264)
  with pytest.raises(ValueError, match="'word', 'bpe' or 'unigram'"):
    train_tokenizer(make_texts(), 400, model_type='words')
  path = tmp_path / 'broken.model'
  path.write_bytes(b'no model')
  with pytest.raises(ValueError, match='broken.model: not a sentencepiece'):
    Tokenizer.load(path)


def test_a_foreign_sentencepiece_model_is_refused(tmp_path):
  # A user-defined role would be matched in typed text.
  prefix = tmp_path / 'foreign'
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(make_texts()),
    model_prefix=str(prefix),
    vocab_size=50,
    user_defined_symbols=['<|user|>'],
    minloglevel=2,
  )
  with pytest.raises(ValueError, match='was not made by train_tokenizer'):
    Tokenizer.load(f'{prefix}.model')


def test_lone_surrogates_are_refused(tokenizer):
  with pytest.raises(ValueError, match='UTF-8'):
    tokenizer.encode('a\ud800b')
