"""Shared by the tests of plans for TPU slices."""

import importlib.util

import pytest

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason='libtpu is not installed: pip install -e ".[aot]" (there are '
  'wheels for Linux on x86_64)',
)


def small(module, **fields):
  """Returns a config with two small layers in a loop, for a 2 x 2 mesh."""
  config = module.get_config('micro')
  for name in ('model', 'reward_model'):
    if name in config:
      config[name].update(
        num_layers=2,
        d_model=128,
        num_heads=2,
        max_len=128,
        scan_unroll=1,
        dtype='bfloat16',
        vocab_multiple=128,
      )
  config.mesh.update(data=1, fsdp=2, tensor=2)
  config.update(fields)
  return config
