"""Parts of a tokenizer.json, the file format of the `tokenizers` library."""

from collections.abc import Iterable, Mapping, Sequence
import json
import pathlib
from typing import Any

import tokenizers

from instructrl.runtime import files

SPACE = '\u2581'  # how sentencepiece writes a space
BYTE_SPACE = '\u0120'  # how byte-level BPE does

# How Llama 3 and Qwen split text; they differ in how many digits stay together.
# The library has GPT-2's pattern.
_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
  r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_DIGITS = {'type': 'Digits', 'individual_digits': True}


def vocabulary(tokenizer: Mapping[str, Any]) -> dict[str, int]:
  """Returns {piece: id} of the model in a tokenizer.json."""
  vocab = tokenizer['model']['vocab']
  if isinstance(vocab, Mapping):
    return dict(vocab)
  return {piece: i for i, (piece, _) in enumerate(vocab)}


def unknown_of(tokenizer: Mapping[str, Any]) -> str | None:
  """Returns the piece for text that the vocabulary cannot write, or None."""
  model = tokenizer['model']
  if isinstance(model['vocab'], Mapping):
    return model.get('unk_token')
  number = model.get('unk_id')
  return None if number is None else model['vocab'][number][0]


def ids_of(tokenizer: Mapping[str, Any]) -> dict[str, int]:
  """Returns {text: id} of all tokens in a tokenizer.json."""
  added = {token['content']: token['id'] for token in tokenizer['added_tokens']}
  return {**vocabulary(tokenizer), **added}


def checked_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
  """Returns the ids as ints; refuses an id outside the vocabulary."""
  ids = [int(i) for i in ids]
  wrong = [i for i in ids if not 0 <= i < vocab_size]
  if wrong:
    raise ValueError(f'token id {wrong[0]} is outside 0..{vocab_size - 1}')
  return ids


def check_rows(vocab_size: int, vocab_rows: int) -> None:
  """Refuses an embedding with too few rows for the tokens."""
  if vocab_rows < vocab_size:
    raise ValueError(
      f'the embedding has {vocab_rows} rows, the tokenizer '
      f'has {vocab_size} tokens'
    )


def build(tokenizer: Mapping[str, Any]) -> tokenizers.Tokenizer:
  """Returns the library's tokenizer for a tokenizer.json.

  Raises:
    ValueError: the library rejects the tokenizer.json.
  """
  try:
    tok = tokenizers.Tokenizer.from_str(json.dumps(tokenizer))
  except BaseException as error:  # the library raises nothing more precise
    # A panic of its Rust code is no Exception.
    if not isinstance(error, Exception) and 'Panic' not in type(error).__name__:
      raise
    raise ValueError(f'the tokenizer cannot be used: {error}') from error
  tok.no_truncation()
  tok.no_padding()
  return tok


def added_token(token_id: int, text: str, special: bool) -> dict[str, Any]:
  """Returns an entry of added_tokens."""
  return {
    'id': token_id,
    'content': text,
    'single_word': False,
    'lstrip': False,
    'rstrip': False,
    'normalized': False,
    'special': special,
  }


def bos_first(text: str, token_id: int) -> dict[str, Any]:
  """Returns the post_processor that puts BOS in front."""
  bos = {'SpecialToken': {'id': text, 'type_id': 0}}
  part = lambda name: {'Sequence': {'id': name, 'type_id': 0}}
  return {
    'type': 'TemplateProcessing',
    'single': [bos, part('A')],
    'pair': [bos, part('A'), bos, part('B')],
    'special_tokens': {text: {'id': text, 'ids': [token_id], 'tokens': [text]}},
  }


def sequence(kind: str, *parts: dict[str, Any] | None) -> dict[str, Any]:
  """Returns a sequence of steps; `kind` is 'normalizers' or 'decoders', ..."""
  return {'type': 'Sequence', kind: [part for part in parts if part]}


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
  """Returns a normaliser or decoder for a {'String' or 'Regex': text}."""
  return {'type': 'Replace', 'pattern': pattern, 'content': content}


def split(regex: str) -> dict[str, Any]:
  """Returns a pre_tokenizer that splits a text around matches."""
  return {
    'type': 'Split',
    'pattern': {'Regex': regex},
    'behavior': 'Isolated',
    'invert': False,
  }


def tokenizer(**parts) -> dict[str, Any]:
  """Returns a tokenizer.json of these parts."""
  return {'version': '1.0', 'truncation': None, 'padding': None, **parts}


def bpe(
  vocab: Mapping[str, int], merges: Iterable[Sequence[str]], **options
) -> dict[str, Any]:
  """Returns the model of BPE.

  Args:
    vocab: {piece: id}.
    merges: pairs of pieces in the order of merging.
    **options: of the library, other than its defaults.
  """
  return {
    'type': 'BPE',
    'dropout': None,
    'unk_token': None,
    'continuing_subword_prefix': None,
    'end_of_word_suffix': None,
    'fuse_unk': False,
    'byte_fallback': False,
    'ignore_merges': False,
    **options,
    'vocab': dict(vocab),
    'merges': [list(pair) for pair in merges],
  }


def byte_level(
  vocab: Mapping[str, int],
  merges: Sequence[Sequence[str]],
  added: Sequence[Mapping[str, Any]],
  splits: str,
  bos: str | None = None,
) -> dict[str, Any]:
  """Returns a tokenizer.json of byte-level BPE.

  Args:
    vocab: {piece: id}, with GPT-2's letters for bytes.
    merges: pairs of pieces in the order of merging.
    added: entries of added_tokens, by id.
    splits: how text is split first: 'gpt2'; 'digits', GPT-2's pattern with
      single digits (SmolLM); 'llama3', up to three digits; 'qwen2', single
      digits after NFC normalisation.
    bos: token that goes before a text, or None.
  """
  byte = {
    'type': 'ByteLevel',
    'add_prefix_space': False,
    'trim_offsets': True,
    'use_regex': splits in ('gpt2', 'digits'),
  }
  parts = {
    'gpt2': (),
    'digits': (_DIGITS,),
    'llama3': (split(_WORDS % r'\p{N}{1,3}'),),
    'qwen2': (split(_WORDS % r'\p{N}'),),
  }[splits]
  return tokenizer(
    added_tokens=list(added),
    normalizer={'type': 'NFC'} if splits == 'qwen2' else None,
    pre_tokenizer=sequence('pretokenizers', *parts, byte),
    post_processor=bos_first(bos, vocab[bos]) if bos else None,
    decoder={**byte, 'use_regex': True},
    model=bpe(vocab, merges, ignore_merges=splits == 'llama3'),
  )


def write_files(
  folder,
  tokenizer: Mapping[str, Any],
  roles: Mapping[str, str],
  chat_template: str,
  config: Mapping[str, Any],
) -> None:
  """Writes the files of a tokenizer as transformers reads them.

  Args:
    folder: an existing folder.
    tokenizer: contents of tokenizer.json.
    roles: {'bos_token': text, ...}.
    chat_template: Jinja.
    config: further fields of tokenizer_config.json.
  """
  folder = pathlib.Path(folder)
  text = lambda value: json.dumps(value, ensure_ascii=False, indent=2) + '\n'
  all_config = {
    'clean_up_tokenization_spaces': False,
    **config,
    **roles,
    # Other classes rebuild parts of tokenizer.json by their own rules.
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'chat_template': chat_template,
  }
  files.atomic_write(folder / 'tokenizer.json', text(tokenizer))
  files.atomic_write(folder / 'special_tokens_map.json', text(roles))
  files.atomic_write(folder / 'tokenizer_config.json', text(all_config))
  files.atomic_write(folder / 'chat_template.jinja', chat_template)
