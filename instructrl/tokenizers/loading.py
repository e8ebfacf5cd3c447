"""Reads a tokenizer of either kind."""

import pathlib

from instructrl.runtime import typed
from instructrl.tokenizers import imported
from instructrl.tokenizers import protocol
from instructrl.tokenizers import trained

_KINDS = (trained.Tokenizer, imported.HFTokenizer)
_NAMES = ' or '.join(kind.FILE for kind in _KINDS)


def load(path) -> protocol.AnyTokenizer:
  """Reads a tokenizer of either kind.

  Args:
    path: a tokenizer's file, or a folder with one: 'tokenizer.model' or
      'tokenizer.hf.json'.

  Raises:
    FileNotFoundError: there is no tokenizer.
    ValueError: the file is damaged, or the folder has both kinds.
  """
  path = typed.path(path)
  if path.is_dir():
    found = _files(path)
    if len(found) > 1:
      raise ValueError(
        f'{path} has two tokenizers ({found[0].name} and {found[1].name}): '
        'remove the wrong one'
      )
    if not found and (path / 'tokenizer_config.json').exists():
      raise FileNotFoundError(
        f'{path} has a tokenizer of another tool: make a run folder of it '
        'with `python -m instructrl.convert import SRC DST`'
      )
    if not found:
      raise FileNotFoundError(f'{path} has no tokenizer ({_NAMES})')
    path = found[0]
  elif not path.exists():
    raise FileNotFoundError(
      f'{path} does not exist; a run folder has a tokenizer ({_NAMES})'
    )
  return _KINDS[path.suffix == '.json'].load(path)


def has(folder) -> bool:
  """Returns whether a folder has a tokenizer of either kind."""
  return bool(_files(pathlib.Path(folder)))


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  paths = [folder / kind.FILE for kind in _KINDS]
  return [path for path in paths if path.exists()]
