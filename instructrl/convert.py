r"""Imports weights from other tools, and exports them.

  python -m instructrl.convert import SRC DST [--dtype=bfloat16] \
      [--mesh=data=1,fsdp=8]
  python -m instructrl.convert export SRC DST [--dtype=bfloat16] \
      [--weights=params] [--max_shard_size=2GB]

`import` makes a run folder DST of SRC, a Hugging Face folder (safetensors) of
a GPT-2, GPT-NeoX, Llama, Qwen2, Qwen3 or Gemma 3 model, or a GGUF file of the
llama architecture: give it to `inputs.init` of a stage, or to
`instructrl.sample`. Memory for twice the largest stacked tensor is enough.
Stopped, the same command begins again. On several machines the same command is
started on each, as of `instructrl.main`.

`export` makes a folder DST that transformers and vLLM load of SRC, a run folder
or a step of it: a policy, or a reward model, whose score lacks `score_bias` of
config.json there.
"""

import functools
import re

from absl import flags
import jax

from instructrl.runtime import command
from instructrl.runtime import processes
from instructrl.runtime import sharding
from instructrl.stages import export
from instructrl.stages import import_

ACTIONS = ('import', 'export')
_UNITS = {'': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9}


def parse_mesh(text: str) -> dict[str, int]:
  """'data=1,fsdp=8' -> {'data': 1, 'fsdp': 8}; {} of ''."""
  mesh = {}
  for part in filter(None, text.split(',')):
    axis, _, size = part.partition('=')
    if axis not in sharding.MESH_AXES or not re.fullmatch(r'-1|[1-9]\d*', size):
      raise ValueError(
        f'--mesh={text}: write sizes of {", ".join(sharding.MESH_AXES)} as '
        'in data=1,fsdp=8; -1 is what is left'
      )
    mesh[axis] = int(size)
  return mesh


def parse_size(text: str) -> int:
  """'5GB' -> 5,000,000,000 bytes, as transformers has it."""
  found = re.fullmatch(r'(\d+(?:\.\d+)?) ?([KMG]?B?)', text.strip().upper())
  unit = found and found[2].rstrip('B')
  size = int(float(found[1]) * _UNITS[unit and unit + 'B']) if found else 0
  if size < 1:
    raise ValueError(f'--max_shard_size={text}: write it as 5GB or 500MB')
  return size


def _main(values, join, action, src, dst):
  value = lambda name: values[name].value
  if action not in ACTIONS:
    raise ValueError(f'{action!r} is neither import nor export')
  mesh = parse_mesh(value('mesh'))
  for name, own in (
    ('mesh', 'import'),
    ('pad', 'import'),
    ('prompt_template', 'import'),
    ('system', 'import'),
    ('response_template', 'import'),
    ('weights', 'export'),
    ('max_shard_size', 'export'),
  ):
    if values[name].present and action != own:
      raise ValueError(f'--{name} is of {own}')
  if not mesh:  # no accelerator computes anything
    jax.config.update('jax_platforms', 'cpu')
  if action == 'export':
    export.export_model(
      src,
      dst,
      dtype=value('dtype'),
      weights=value('weights'),
      max_shard_bytes=parse_size(value('max_shard_size')),
    )
    return
  command.setup_jax()
  join()
  if not processes.same(f'{src} {dst} {mesh} {value("dtype")}'):
    raise ValueError('the processes were not given the same command')
  import_.import_model(
    src,
    dst,
    mesh=mesh,
    dtype=value('dtype'),
    pad=value('pad'),
    prompt_template=value('prompt_template'),
    response_template=value('response_template'),
    system=value('system'),
  )


def define_flags():
  """name -> holder of each flag."""
  choice, text = flags.DEFINE_enum, flags.DEFINE_string
  return {
    'dtype': choice(
      'dtype',
      'float32',
      import_.DTYPES,
      'Of the parameters as they are written.',
    ),
    'mesh': text(
      'mesh',
      '',
      'import: the parts that devices and processes '
      'read by themselves, as in data=1,fsdp=8.',
    ),
    'pad': choice(
      'pad',
      'mean',
      import_.PADS,
      'import: the row of a PAD that the model does not have.',
    ),
    'prompt_template': text(
      'prompt_template',
      '',
      'import: how a prompt is laid out, with '
      "{prompt} once; 'chat' is the model's own chat template, and what is "
      'taken where it has one.',
    ),
    'response_template': text(
      'response_template', '', 'import: what follows it, with {response} once.'
    ),
    'system': text(
      'system', '', 'import: a system message for the chat template.'
    ),
    'weights': choice(
      'weights',
      'default',
      export.WEIGHTS,
      'export: the EMA, or '
      'params, which the EMA follows; by default what other stages load: '
      'the EMA of PPO, params of the rest.',
    ),
    'max_shard_size': text('max_shard_size', '5GB', 'export: of a file.'),
  }


if __name__ == '__main__':
  command.run_door(
    functools.partial(_main, define_flags(), command.define_processes()),
    ('import|export', 'SRC', 'DST'),
  )
