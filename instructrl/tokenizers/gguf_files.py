"""The tokenizer in a GGUF file, from its metadata.

Such a file names its kind (`tokenizer.ggml.model`: 'gpt2' is byte-level BPE,
'llama' a sentencepiece BPE) and how text is parted (`tokenizer.ggml.pre`), and
lists tokens with their types, and merges or scores.
"""

from collections.abc import Mapping
import pathlib
import re
from typing import Any

import gguf

from instructrl.tokenizers import hf_json
from instructrl.tokenizers import spm_files
from instructrl.tokenizers.hf_files import Source

# `tokenizer.ggml.pre`, and how `tokenizer_json.byte_level` calls it.
_SPLITS = {
  'default': 'gpt2',
  'gpt-2': 'gpt2',
  'smollm': 'digits',
  'starcoder': 'digits',
  'llama-bpe': 'llama3',
  'llama3': 'llama3',
  'llama-v3': 'llama3',
  'qwen2': 'qwen2',
  'deepseek-r1-qwen': 'qwen2',
}
_ROLES = {
  'bos': 'bos_token',
  'eos': 'eos_token',
  'unknown': 'unk_token',
  'padding': 'pad_token',
  'seperator': 'sep_token',
  'separator': 'sep_token',
}
# Rows of the embedding beyond the vocabulary are listed as tokens.
_NO_TOKEN = re.compile(r'\[PAD\d+\]')


def read(path) -> Source:
  """The tokenizer of a GGUF file; ValueError names what is wrong with it."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'{path} is not there')
  try:
    fields = gguf.GGUFReader(path).fields
    found = {
      name: field.contents()
      for name, field in fields.items()
      if name.startswith('tokenizer.')
    }
  except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
    raise ValueError(
      f'{path} is no GGUF file, or ends early: {error}'
    ) from error
  try:
    return from_metadata(found)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def from_metadata(found: Mapping[str, Any]) -> Source:
  """A tokenizer from the metadata of a GGUF file.

  Args:
    found: {'tokenizer.ggml.model': 'gpt2', ...}.

  Raises:
    ValueError: it is of an unknown kind, or something is missing or damaged.
  """

  def get(name):
    try:
      return found[f'tokenizer.ggml.{name}']
    except KeyError:
      raise ValueError(f'tokenizer.ggml.{name} is missing') from None

  kind, tokens = get('model'), list(get('tokens'))
  types = list(
    found.get('tokenizer.ggml.token_type')
    or [spm_files.Type.NORMAL] * len(tokens)
  )
  if len(types) != len(tokens):
    raise ValueError(
      f'tokenizer.ggml.token_type has {len(types)} entries for '
      f'{len(tokens)} tokens'
    )
  rows = len(tokens)
  while (
    tokens
    and types[-1] == spm_files.Type.UNUSED
    and _NO_TOKEN.fullmatch(tokens[-1])
  ):
    tokens.pop()
    types.pop()
  if len(set(tokens)) != len(tokens):
    raise ValueError('tokenizer.ggml.tokens has one token twice')
  roles = {}
  for name, role in _ROLES.items():
    token_id = found.get(f'tokenizer.ggml.{name}_token_id')
    if token_id is not None and 0 <= token_id < len(tokens):
      roles[role] = tokens[token_id]
  if 'eos_token' not in roles:
    raise ValueError('tokenizer.ggml.eos_token_id is missing or no token')
  bos = roles.get('bos_token')
  if kind == 'gpt2':
    splits = _splits(found)
    adds_bos = found.get('tokenizer.ggml.add_bos_token', splits == 'llama3')
    tokenizer = hf_json.byte_level(
      {token: i for i, token in enumerate(tokens)},
      _merges(get('merges')),
      [
        hf_json.added_token(i, token, kind == spm_files.Type.CONTROL)
        for i, (token, kind) in enumerate(zip(tokens, types))
        if kind in (spm_files.Type.CONTROL, spm_files.Type.USER_DEFINED)
      ],
      splits,
      bos if adds_bos else None,
    )
  elif kind == 'llama':
    adds_bos = found.get('tokenizer.ggml.add_bos_token', True)
    tokenizer = spm_files.imported(
      [
        spm_files.Piece(*piece)
        for piece in zip(tokens, map(float, get('scores')), types, strict=True)
      ],
      unigram=False,
      dummy_prefix=found.get('tokenizer.ggml.add_space_prefix', True),
      bos=bos if adds_bos else None,
    )
  else:
    raise ValueError(
      f"tokenizer.ggml.model is {kind!r}, this program reads 'gpt2' and "
      "'llama': import the Hugging Face folder of the model instead"
    )
  return Source(
    tokenizer,
    roles,
    bos if adds_bos or bos == roles['eos_token'] else None,
    found.get('tokenizer.chat_template'),
    rows,
  )


def _splits(found: Mapping[str, Any]) -> str:
  name = found.get('tokenizer.ggml.pre', 'default')
  if name not in _SPLITS:
    raise ValueError(
      f'tokenizer.ggml.pre is {name!r}, this program reads '
      f'{", ".join(_SPLITS)}: import the Hugging Face folder of the model '
      'instead'
    )
  return _SPLITS[name]


def _merges(lines) -> list[list[str]]:
  merges = [line.split(' ') for line in lines]
  wrong = [line for line, pair in zip(lines, merges) if len(pair) != 2]
  if wrong:
    raise ValueError(
      f'tokenizer.ggml.merges has {wrong[0]!r}, which is no pair'
    )
  return merges
