r"""Imports weights from other tools, and exports weights to them.

  python -m instructrl.convert import SRC DST [--mesh=data=1,fsdp=8]
  python -m instructrl.convert export SRC DST [--dtype=bfloat16]

`import` makes a run folder DST of SRC, a Hugging Face folder (safetensors) or a
GGUF file; if it is stopped, the same command starts again. `export` makes a
Hugging Face folder DST of SRC, a run folder or one of its checkpoints.
docs/real_data.md lists the families of models, and how to use DST.
"""

import functools
import re

from absl import flags

from instructrl.runtime import command
from instructrl.runtime import typed

ACTIONS = ('import', 'export')
DTYPES = ('float32', 'bfloat16')
# Flags that only one action has.
_IMPORT = ('mesh', 'pad', 'prompt_template', 'response_template', 'system')
_EXPORT = ('weights', 'max_shard_size')
_UNITS = {'': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9}


def parse_mesh(text: str) -> dict[str, int]:
  """Returns {'data': 1, 'fsdp': 8} for 'data=1,fsdp=8', and {} for ''."""
  from instructrl.runtime import sharding

  mesh = {}
  for part in filter(None, text.split(',')):
    axis, _, size = part.partition('=')
    if axis not in sharding.MESH_AXES or not re.fullmatch(r'-1|[1-9]\d*', size):
      raise ValueError(
        f'--mesh={text}: write sizes of {", ".join(sharding.MESH_AXES)} like '
        'data=1,fsdp=8; -1 means all remaining devices'
      )
    mesh[axis] = int(size)
  return mesh


def parse_size(text: str) -> int:
  """Returns 5,000,000,000 bytes for '5GB', as transformers does."""
  found = re.fullmatch(r'(\d+(?:\.\d+)?) ?([KMG]?B?)', text.strip().upper())
  unit = found and found[2].rstrip('B')
  size = int(float(found[1]) * _UNITS[unit and unit + 'B']) if found else 0
  if size < 1:
    raise ValueError(f'--max_shard_size={text}: write a size like 5GB or 500MB')
  return size


def _main(values, join, action, src, dst):
  if action not in ACTIONS:
    raise ValueError(
      f'the first argument must be import or export; got {action!r}'
    )
  for name in _EXPORT if action == 'import' else _IMPORT:
    if values[name].present:
      own = 'import' if name in _IMPORT else 'export'
      raise ValueError(f'--{name} can only be used with `{own}`')
  src, dst = typed.path(src), typed.path(dst)
  given = {name: flag.value for name, flag in values.items()}
  mesh = parse_mesh(given['mesh'])
  if not mesh:  # nothing is computed, so an accelerator is not needed
    import jax

    jax.config.update('jax_platforms', 'cpu')
  if action == 'export':
    from instructrl.stages import export

    export.export_model(
      src,
      dst,
      dtype=given['dtype'],
      weights=given['weights'],
      max_shard_bytes=parse_size(given['max_shard_size']),
    )
    return
  from instructrl.runtime import processes
  from instructrl.stages import import_

  command.setup_jax()
  join()
  if not processes.same(f'{src} {dst} {mesh} {given["dtype"]}'):
    raise ValueError('all processes must be given the same command')
  options = dict(dtype=given['dtype'], pad=given['pad'], mesh=mesh)
  import_.import_model(src, dst, **options, **import_.layout_of(given))


def define_flags():
  """Defines the flags; returns {name: holder}."""
  choice, text = flags.DEFINE_enum, flags.DEFINE_string
  found = (
    choice('dtype', 'float32', DTYPES, 'of the parameters in DST.'),
    text('mesh', '', 'import: sizes of the mesh axes, like data=1,fsdp=8.'),
    choice(
      'pad',
      'mean',
      ('mean', 'zeros'),
      'import: the row of a missing PAD token.',
    ),
    text('prompt_template', '', "import: text with {prompt}; 'chat': its own."),
    text('response_template', '', 'import: a text with {response} once.'),
    text('system', '', 'import: a system message for the chat template.'),
    choice(
      'weights',
      'default',
      ('default', 'ema', 'params'),
      'export: the default is the EMA after PPO.',
    ),
    text('max_shard_size', '5GB', 'export: the largest file.'),
  )
  return {flag.name: flag for flag in found}


if __name__ == '__main__':
  command.run_door(
    functools.partial(_main, define_flags(), command.define_processes()),
    ('import|export', 'SRC', 'DST'),
  )
