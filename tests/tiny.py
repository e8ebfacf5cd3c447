"""Models of a few thousand parameters, for the tests of what uses models.

Parameters are drawn by numpy: `Model.init` would be one more program to
compile, and its biases of 0 and norms of 1 would hide what they do.
"""

import jax
import numpy as np

from instructrl.models import transformer
from instructrl.stages import build
from instructrl.types import PromptBatch

VOCAB = 50
PAD, EOS = 0, 2
FIELDS = dict(
  vocab_size=VOCAB, num_layers=2, d_model=32, num_heads=4, max_len=32
)

# What families of models differ in; each changes the function or its inputs.
LLAMA = dict(
  norm='rmsnorm',
  positions='rotary',
  mlp='swiglu',
  num_kv_heads=2,
  use_bias=False,
  tie_embeddings=False,
  d_ff=48,
  head_dim=6,
)
NEOX = dict(
  positions='rotary',
  rotary_fraction=0.5,
  mlp='gelu_exact',
  parallel_residual=True,
  tie_embeddings=False,
)
GEMMA = dict(
  norm='rmsnorm',
  norm_offset=1.0,
  qk_norm=True,
  post_norm=True,
  positions='rotary',
  rope_theta=1000.0,
  rope_theta_local=50.0,
  rope_scaling=('linear', 4.0),
  windows=(3, 0),
  query_scale=0.3,
  mlp='geglu',
  num_kv_heads=2,
  use_bias=False,
  d_ff=48,
  head_dim=6,
  embed_scale=True,
  vocab_rows=56,
)
VARIANTS = {
  'gpt': {},
  'rmsnorm': dict(norm='rmsnorm'),
  'rotary': dict(positions='rotary'),
  'swiglu': dict(mlp='swiglu'),
  'grouped_heads': dict(num_kv_heads=2),
  'no_bias': dict(use_bias=False),
  'untied': dict(tie_embeddings=False),
  'llama': LLAMA,
  'banded': dict(windows=(0, 3)),
  'one_window': dict(windows=(2,), positions='rotary', rope_theta_local=9.0),
  'qkv_bias': dict(
    use_bias=False,
    qkv_bias=True,
    positions='rotary',
    rope_scaling=('llama3', 8.0, 1.0, 4.0, 32),
  ),
  'neox': NEOX,
  'gemma': GEMMA,
}


def jit(fn, **kwargs):
  """`jax.jit` for programs that run briefly: compiles in half the time."""
  return jax.jit(
    fn, compiler_options={'xla_backend_optimization_level': 0}, **kwargs
  )


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
  return fill(jax.eval_shape(lambda: build.init_scalar(model, 0)), seed, std)


def prompt_batch(prompts, prompt_len) -> PromptBatch:
  """Left-padded."""
  tokens = np.full((len(prompts), prompt_len), PAD, np.int32)
  for row, prompt in zip(tokens, prompts):
    row[prompt_len - len(prompt) :] = prompt
  lengths = np.array([len(prompt) for prompt in prompts])
  return PromptBatch(
    tokens=tokens,
    mask=np.arange(prompt_len) >= prompt_len - lengths[:, None],
    index=np.arange(len(prompts), dtype=np.int32),
  )


def response_arrays(responses, response_len):
  """Right-padded tokens [B, R], and their mask."""
  tokens = np.full((len(responses), response_len), PAD, np.int32)
  for row, response in zip(tokens, responses):
    row[: len(response)] = response
  lengths = np.array([len(response) for response in responses])
  return tokens, np.arange(response_len) < lengths[:, None]


def largest_with(jaxpr, vocab):
  """The most elements of an array in a program with an axis of `vocab`."""
  found = 0
  for equation in jaxpr.eqns:
    for var in equation.outvars:
      shape = getattr(var.aval, 'shape', ())
      if vocab in shape:
        found = max(found, int(np.prod(shape)))
    for sub in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
    ):
      sub = getattr(sub, 'jaxpr', sub)
      if hasattr(sub, 'eqns'):
        found = max(found, largest_with(sub, vocab))
  return found
