"""Reads the tokenizer of a GGUF file from its metadata.

The metadata names the kind (`tokenizer.ggml.model`: 'gpt2' is byte-level BPE,
'llama' is a sentencepiece BPE) and how text is split (`tokenizer.ggml.pre`),
and lists tokens with their types, and merges or scores.
"""

from collections.abc import Mapping
import pathlib
import re
from typing import Any

import gguf

from instructrl.runtime import files
from instructrl.tokenizers import hf_json
from instructrl.tokenizers import spm_files
from instructrl.tokenizers.hf_files import TokenizerSource
from instructrl.tokenizers.spm_files import Type

# `tokenizer.ggml.pre` -> `splits` of `hf_json.byte_level`.
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
_INSTEAD = 'import the Hugging Face folder of the model instead'
# Rows of the embedding beyond the vocabulary are listed as such tokens.
_NO_TOKEN = re.compile(r'\[PAD\d+\]')


def read(path) -> TokenizerSource:
  """Reads the tokenizer of a GGUF file; errors name the file."""
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
      f'{path} is not a GGUF file, or is cut off: {error}'
    ) from error
  with files.named(path):
    return from_metadata(found)


class _Metadata:
  """The fields `tokenizer.ggml.*`."""

  def __init__(self, found: Mapping[str, Any]):
    self._found = found

  def get(self, name: str, default=None):
    return self._found.get(f'tokenizer.ggml.{name}', default)

  def need(self, name: str):
    if self.get(name) is None:
      raise ValueError(f'tokenizer.ggml.{name} is missing')
    return self.get(name)


def from_metadata(found: Mapping[str, Any]) -> TokenizerSource:
  """Returns the tokenizer for the metadata of a GGUF file.

  Args:
    found: {'tokenizer.ggml.model': 'gpt2', ...}.

  Raises:
    ValueError: the kind is unknown, or a field is missing or damaged.
  """
  meta = _Metadata(found)
  kind, tokens = meta.need('model'), list(meta.need('tokens'))
  types = list(meta.get('token_type') or [Type.NORMAL] * len(tokens))
  if len(types) != len(tokens):
    raise ValueError(
      f'tokenizer.ggml.token_type has {len(types)} entries for {len(tokens)} '
      'tokens'
    )
  rows = len(tokens)
  while tokens and types[-1] == Type.UNUSED and _NO_TOKEN.fullmatch(tokens[-1]):
    tokens.pop()
    types.pop()
  if len(set(tokens)) != len(tokens):
    raise ValueError('tokenizer.ggml.tokens has a token twice')
  roles = {}
  for name, role in _ROLES.items():
    token_id = meta.get(f'{name}_token_id')
    if token_id is not None and 0 <= token_id < len(tokens):
      roles[role] = tokens[token_id]
  if 'eos_token' not in roles:
    raise ValueError('tokenizer.ggml.eos_token_id is missing or not a token')
  bos = roles.get('bos_token')
  if kind == 'gpt2':
    tokenizer, adds_bos = _byte_level(meta, tokens, types, bos)
  elif kind == 'llama':
    adds_bos = meta.get('add_bos_token', True)
    scores = map(float, meta.need('scores'))
    tokenizer = spm_files.imported(
      [
        spm_files.Piece(*piece)
        for piece in zip(tokens, scores, types, strict=True)
      ],
      unigram=False,
      dummy_prefix=meta.get('add_space_prefix', True),
      bos=bos if adds_bos else None,
    )
  else:
    raise ValueError(
      f"tokenizer.ggml.model must be 'gpt2' or 'llama'; got {kind!r}: "
      f'{_INSTEAD}'
    )
  begin = bos if adds_bos or bos == roles['eos_token'] else None
  template = found.get('tokenizer.chat_template')
  return TokenizerSource(tokenizer, roles, begin, template, rows)


def _byte_level(meta: _Metadata, tokens, types, bos: str | None):
  """Returns (tokenizer.json of byte-level BPE, whether it puts BOS first)."""
  pre = meta.get('pre', 'default')
  if pre not in _SPLITS:
    raise ValueError(
      f'tokenizer.ggml.pre must be one of {", ".join(_SPLITS)}; got {pre!r}: '
      f'{_INSTEAD}'
    )
  splits = _SPLITS[pre]
  adds_bos = meta.get('add_bos_token', splits == 'llama3')
  merges = [line.split(' ') for line in meta.need('merges')]
  for pair in merges:
    if len(pair) != 2:
      raise ValueError(
        f'tokenizer.ggml.merges must be pairs; got {" ".join(pair)!r}'
      )
  added = [
    hf_json.added_token(i, token, kind == Type.CONTROL)
    for i, (token, kind) in enumerate(zip(tokens, types))
    if kind in (Type.CONTROL, Type.USER_DEFINED)
  ]
  vocab = {token: i for i, token in enumerate(tokens)}
  tokenizer = hf_json.byte_level(
    vocab, merges, added, splits, bos if adds_bos else None
  )
  return tokenizer, adds_bos
