"""A tokenizer.json for folders without one, from the files of older programs.

Two kinds: vocab.json with merges.txt (byte-level BPE, which says nowhere how
it parts text: only GPT-2's and Qwen's are known), and tokenizer.model (a
sentencepiece model with byte fallback, as Llama's and Gemma's).
"""

from collections.abc import Mapping
import pathlib
from typing import Any

from instructrl.runtime import files
from instructrl.tokenizers import hf_json
from instructrl.tokenizers import spm_files

# By tokenizer_class, or the model_type of config.json.
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
  """Reads what there is instead of a tokenizer.json.

  Args:
    path: the folder.
    config: tokenizer_config.json.
    model_type: of config.json.

  Returns:
    What a tokenizer.json would hold, and the special tokens by role where the
    files say no more.

  Raises:
    FileNotFoundError: there is nothing.
    ValueError: it is damaged, or of a kind that cannot be made equal.
  """
  if (path / 'vocab.json').exists() and (path / 'merges.txt').exists():
    return _read_bpe(path, config.get('tokenizer_class') or model_type)
  if (path / 'tokenizer.model').exists():
    return _read_model(path / 'tokenizer.model', config)
  raise FileNotFoundError(
    f'{path} has no tokenizer: neither tokenizer.json, nor vocab.json with '
    'merges.txt, nor tokenizer.model'
  )


def _read_bpe(path, kind: str):
  vocab = files.read_json(path / 'vocab.json')
  file = path / 'merges.txt'
  lines = file.read_text(encoding='utf-8').split('\n')
  merges = []
  for number, line in enumerate(lines, 1):
    if not line.strip() or (number == 1 and line.startswith('#version')):
      continue
    pair = line.split(' ')
    if len(pair) != 2 or not all(p in vocab for p in (*pair, ''.join(pair))):
      raise ValueError(
        f'{file}:{number}: {line!r} is no pair of pieces of '
        'vocab.json whose union is a piece'
      )
    merges.append(pair)
  splits = _SPLITS.get(kind)
  if splits is None:
    raise ValueError(
      f'{path} has no tokenizer.json, and how {kind or "its tokenizer"!r} '
      f'parts text is not known here: {_INSTEAD}'
    )
  ends = [_GPT2_END] if _GPT2_END in vocab and splits == 'gpt2' else []
  roles = {
    role: end
    for end in ends
    for role in ('bos_token', 'eos_token', 'unk_token')
  }
  return hf_json.byte_level(
    vocab,
    merges,
    [hf_json.added_token(vocab[end], end, True) for end in ends],
    splits,
  ), roles


def _read_model(file: pathlib.Path, config):
  model = file.read_bytes()
  try:
    proto = spm_files.read_proto(model)
    spec = proto.trainer_spec
    pieces = spm_files.pieces_of(proto)
    names = {piece.text for piece in pieces}
    roles = {
      f'{role}_token': token
      for role, token in (
        ('bos', spec.bos_piece),
        ('eos', spec.eos_piece),
        ('unk', spec.unk_piece),
        ('pad', spec.pad_piece),
      )
      if token in names
    }
    bos = roles.get('bos_token') if config.get('add_bos_token', True) else None
    tokenizer = spm_files.from_proto(model, bos)
  except ValueError as error:
    raise ValueError(f'{file}: {error}: {_INSTEAD}') from error
  return tokenizer, roles
