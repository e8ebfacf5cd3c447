"""Models of a few thousand parameters, for the tests of what uses models.

Parameters are drawn by numpy: `Model.init` would be one more program to
compile, and its biases of 0 and norms of 1 would hide what they do.
"""

import jax
import numpy as np

from instructrl.models import transformer
from instructrl.trainers import common

VOCAB = 50
FIELDS = dict(vocab_size=VOCAB, num_layers=2, d_model=32, num_heads=4,
              max_len=32)

# What families of models differ in; each changes the function or its inputs.
LLAMA = dict(norm='rmsnorm', positions='rotary', mlp='swiglu', num_kv_heads=2,
             use_bias=False, tie_embeddings=False, d_ff=48, head_dim=6)
VARIANTS = {
    'gpt': {},
    'rmsnorm': dict(norm='rmsnorm'),
    'rotary': dict(positions='rotary'),
    'swiglu': dict(mlp='swiglu'),
    'grouped_heads': dict(num_kv_heads=2),
    'no_bias': dict(use_bias=False),
    'untied': dict(tie_embeddings=False),
    'llama': LLAMA,
}


def model(**changes) -> transformer.Model:
  return transformer.make_model(**{**FIELDS, **changes})


def fill(shapes, seed: int = 0, std: float = 0.3):
  """Random values for a tree of shapes; those of norms are near 1.

  The scale is such that layers, positions and biases all matter to logits.
  """
  rng = np.random.default_rng(seed)

  def leaf(path, shape):
    values = rng.normal(0, std, shape.shape)
    return np.float32(values + (path[-1].key == 'scale'))

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def params(model: transformer.Model, seed: int = 0, std: float = 0.3):
  return fill(jax.eval_shape(model.init, jax.random.key(0)), seed, std)


def scalar_params(model: transformer.Model, seed: int = 1, std: float = 0.3):
  """Parameters of a reward or value model, with a bias."""
  return fill(
      jax.eval_shape(lambda: common.init_scalar(model, 0)), seed, std)
