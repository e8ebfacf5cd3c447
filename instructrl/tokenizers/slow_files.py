"""Reads tokenizers of folders without a tokenizer.json.

Supports vocab.json with merges.txt (byte-level BPE; these files do not say how
to split text, so only GPT-2's and Qwen's are supported), and tokenizer.model (a
sentencepiece model with byte fallback, such as Llama's and Gemma's).
"""

from collections.abc import Mapping
import pathlib
from typing import Any

from instructrl.runtime import files
from instructrl.tokenizers import hf_json
from instructrl.tokenizers import spm_files

# tokenizer_class, or model_type of config.json -> `splits` of byte-level BPE.
_SPLITS = {
  'GPT2Tokenizer': 'gpt2',
  'GPT2TokenizerFast': 'gpt2',
  'gpt2': 'gpt2',
  'Qwen2Tokenizer': 'qwen2',
  'Qwen2TokenizerFast': 'qwen2',
  'qwen2': 'qwen2',
  'qwen3': 'qwen2',
}
_GPT2_END = '<|endoftext|>'
_INSTEAD = (
  'save it with transformers once (AutoTokenizer.from_pretrained('
  'FOLDER).save_pretrained(FOLDER)), which writes tokenizer.json'
)


def read(
  path: pathlib.Path, config: Mapping[str, Any], model_type: str
) -> tuple[dict[str, Any], dict[str, str]]:
  """Converts the files of a folder to a tokenizer.json.

  Args:
    path: the folder.
    config: tokenizer_config.json.
    model_type: of config.json.

  Returns:
    Contents of tokenizer.json; {role: token} for special tokens that the
    folder's other files may leave out.

  Raises:
    FileNotFoundError: the folder has no tokenizer.
    ValueError: a file is damaged or cannot be converted exactly.
  """
  if (path / 'vocab.json').exists() and (path / 'merges.txt').exists():
    return _read_bpe(path, config.get('tokenizer_class') or model_type)
  if (path / 'tokenizer.model').exists():
    return _read_model(path / 'tokenizer.model', config)
  raise FileNotFoundError(
    f'{path} has no tokenizer: neither tokenizer.json, nor vocab.json with '
    'merges.txt, nor tokenizer.model'
  )


def _read_bpe(path: pathlib.Path, kind: str):
  vocab, file = files.read_json(path / 'vocab.json'), path / 'merges.txt'
  merges = []
  for number, line in enumerate(files.read_text(file).split('\n'), 1):
    if not line.strip() or (number == 1 and line.startswith('#version')):
      continue
    pair = line.split(' ')
    if len(pair) != 2 or not all(p in vocab for p in (*pair, ''.join(pair))):
      raise ValueError(
        f'{file}:{number}: {line!r} must be two pieces of vocab.json whose '
        'union is a piece'
      )
    merges.append(pair)
  splits = _SPLITS.get(kind)
  if splits is None:
    raise ValueError(
      f'{path} has no tokenizer.json, and it is unknown how '
      f'{kind or "its tokenizer"!r} splits text: {_INSTEAD}'
    )
  added, roles = [], {}
  if splits == 'gpt2' and _GPT2_END in vocab:
    added = [hf_json.added_token(vocab[_GPT2_END], _GPT2_END, True)]
    roles = dict.fromkeys(('bos_token', 'eos_token', 'unk_token'), _GPT2_END)
  return hf_json.byte_level(vocab, merges, added, splits), roles


def _read_model(file: pathlib.Path, config):
  files.refuse_pointer(file)
  model = files.read_bytes(file)
  try:
    proto = spm_files.read_proto(model)
    pieces = {piece.text for piece in spm_files.pieces_of(proto)}
    named = {
      role: getattr(proto.trainer_spec, f'{role}_piece')
      for role in ('bos', 'eos', 'unk', 'pad')
    }
    roles = {
      f'{r}_token': piece for r, piece in named.items() if piece in pieces
    }
    bos = roles.get('bos_token') if config.get('add_bos_token', True) else None
    return spm_files.from_proto(model, bos), roles
  except ValueError as error:
    raise ValueError(f'{file}: {error}: {_INSTEAD}') from error
