"""Reads a tokenizer of either kind."""

import pathlib

from instructrl.tokenizers import imported
from instructrl.tokenizers import protocol
from instructrl.tokenizers import trained


def load(path) -> protocol.AnyTokenizer:
  """Reads a tokenizer of either kind.

  Args:
    path: its file, or a folder with one: 'tokenizer.model' or
      'tokenizer.hf.json'.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is damaged, or the folder has both kinds.
  """
  path = pathlib.Path(path)
  kinds = (trained.Tokenizer, imported.HFTokenizer)
  if path.is_dir():
    files = [path / kind.FILE for kind in kinds if (path / kind.FILE).exists()]
    if len(files) > 1:
      raise ValueError(
        f'{path} has two tokenizers ({files[0].name} and '
        f'{files[1].name}): remove the one that is not meant'
      )
    if not files and (path / 'tokenizer_config.json').exists():
      raise FileNotFoundError(
        f'{path} has a tokenizer of another tool: make a run folder of it '
        'with `python -m instructrl.convert import SRC DST`'
      )
    if not files:
      raise FileNotFoundError(
        f'{path} has no tokenizer ({" or ".join(k.FILE for k in kinds)})'
      )
    path = files[0]
  elif not path.exists():
    raise FileNotFoundError(
      f'{path} does not exist; a run folder has a '
      f'tokenizer ({" or ".join(k.FILE for k in kinds)})'
    )
  kind = kinds[path.suffix == '.json']
  return kind.load(path)


def has(folder) -> bool:
  """Whether a folder has a tokenizer of either kind."""
  return any(
    (pathlib.Path(folder) / kind.FILE).exists()
    for kind in (trained.Tokenizer, imported.HFTokenizer)
  )
