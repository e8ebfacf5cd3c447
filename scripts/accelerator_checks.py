"""Checks on a device; each prints one JSON object. See accelerator.py.

  python scripts/accelerator_checks.py {environment,attention,offload,logprobs}

A check prints what it measured, or {"skipped": reason} where the device has
nothing to check, and fails with an AssertionError.
"""

import json
import platform
import sys

import jax
import jax.numpy as jnp
import numpy as np

from instructrl import losses
from instructrl.models import flash
from instructrl.models import transformer
from instructrl.runtime import sharding

# The outputs and gradients are in bf16, whose relative step is 2 ** -8.
LARGEST_ERROR = 0.05


def environment() -> dict:
  """Returns what the results were measured on."""
  device = jax.devices()[0]
  memory = device.memory_stats() or {}
  return {
    'device': device.device_kind,
    'platform': device.platform,
    'devices': jax.device_count(),
    'memory_bytes': memory.get('bytes_limit'),
    'jax': jax.__version__,
    'python': platform.python_version(),
  }


def attention() -> dict:
  """Compares a model with the device's attention kernel to one with XLA's.

  Returns:
    The largest errors of the hidden states and of the gradients, relative to
    the largest value.
  """
  length, width = 512, 64
  kernel = flash.choose('auto', length=length, width=width, dtype=jnp.bfloat16)
  if kernel == 'xla':
    return {'skipped': f'{jax.devices()[0].device_kind} has no kernel'}
  ids = np.ones((2, length), np.int32)  # packed rows, with padding
  ids[:, 200:], ids[:, 500:] = 2, 0
  positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)
  tokens = np.random.default_rng(0).integers(0, 256, ids.shape, np.int32)

  def run(implementation):
    model = transformer.make_model(
      vocab_size=256,
      num_layers=2,
      d_model=4 * width,
      num_heads=4,
      max_len=length,
      dtype='bfloat16',
      attention=implementation,
    )

    def loss(params):
      hidden, _ = model.apply(params, tokens, positions, ids)
      hidden = jnp.where(ids[..., None] > 0, hidden.astype(jnp.float32), 0)
      return jnp.sin(hidden).sum(), hidden

    params = jax.jit(model.init)(jax.random.key(0))
    return jax.jit(jax.grad(loss, has_aux=True))(params)

  (grads, hidden), (wanted_grads, wanted) = run('auto'), run('xla')
  for found in (grads, wanted_grads):
    # Only rounding: a shift of all keys changes no softmax.
    del found['blocks']['k']['bias']
  errors = {'hidden': relative_error(hidden, wanted)}
  errors['gradients'] = max(
    map(relative_error, jax.tree.leaves(grads), jax.tree.leaves(wanted_grads))
  )
  assert max(errors.values()) < LARGEST_ERROR, (kernel, errors)
  return {'kernel': kernel, **errors}


def offload() -> dict:
  """Keeps an array in host memory, and computes with it on the device."""
  mesh = sharding.make_mesh({'data': -1})
  try:
    shardings = sharding.on_host(mesh, sharding.replicated(mesh))
  except ValueError as error:
    return {'skipped': str(error)}
  values = np.random.default_rng(0).normal(size=(1024, 1024)).astype(np.float32)
  kept = jax.device_put(values, shardings)
  assert kept.sharding.memory_kind == sharding.HOST, kept.sharding
  found = jax.jit(lambda x: 2 * sharding.to_device(x))(kept)
  np.testing.assert_array_equal(found, 2 * values)
  return {'bytes': values.nbytes}


def logprobs() -> dict:
  """Compares log-probabilities of 16-bit hidden states with float64."""
  draw = np.random.default_rng(0)
  hidden = jnp.asarray(draw.normal(size=(4, 64, 256)), jnp.bfloat16)
  weights = jnp.asarray(draw.normal(size=(1024, 256)) / 16, jnp.bfloat16)
  tokens = draw.integers(0, 1000, (4, 64)).astype(np.int32)
  found = jax.jit(
    lambda h, w: losses.token_logprobs(
      h, w, tokens, vocab_size=1000, chunk_size=64
    )
  )(hidden, weights.T)
  logits = np.asarray(hidden, np.float64) @ np.asarray(weights, np.float64).T
  logits = logits[..., :1000]
  most = logits.max(-1, keepdims=True)
  total = most + np.log(np.exp(logits - most).sum(-1, keepdims=True))
  wanted = np.take_along_axis(logits - total, tokens[..., None], -1)[..., 0]
  error = float(np.abs(np.asarray(found, np.float64) - wanted).max())
  assert error < LARGEST_ERROR, error
  return {'largest_error_nats': error}


def relative_error(found, wanted) -> float:
  """Returns the largest difference, relative to the largest value."""
  found, wanted = (np.asarray(x, np.float64) for x in (found, wanted))
  return float(np.abs(found - wanted).max() / np.abs(wanted).max())


CHECKS = {f.__name__: f for f in (environment, attention, offload, logprobs)}

if __name__ == '__main__':
  print(json.dumps(CHECKS[sys.argv[1]]()))
