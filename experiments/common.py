"""Fields that experiments share: seeds, model sizes, sharding, run folder.

`get_config(arg)` of an experiment starts from `base(size)`. The size sets
several fields at once; any field can be overridden by a flag, such as
`--config.ppo.kl_coef=0.05`.
"""

from ml_collections import config_dict

from instructrl.stages.model_settings import HOW_COMPUTED

# Axis of a parameter or an activation -> mesh axis; None = not sharded. See
# instructrl/runtime/sharding.py.
RULES = (
  ('layers', None),
  ('vocab', 'tensor'),
  ('embed', 'fsdp'),
  ('mlp', 'tensor'),
  ('heads', 'tensor'),
  ('kv', None),
  ('norm', None),
  ('positions', None),
  ('act_batch', ('data', 'fsdp')),
  ('act_len', None),
  ('act_embed', None),
  ('act_heads', 'tensor'),
  ('act_mlp', 'tensor'),
)

# Layers, width, heads, longest example in tokens.
LAB_SIZES = {  # sizes with a simulated lab
  'micro': (2, 64, 2, 192),  # seconds; for tests
  'tiny': (4, 128, 4, 192),  # 0.9M parameters, minutes on two CPU cores
  'small': (8, 320, 5, 256),  # 10M parameters, minutes on an accelerator
}
# Brown et al. 2020, table 2.1, with its context of 2,048. For 1.3B the table
# has 24 heads of 128, whose total is not 2,048. Ouyang et al. call 6.7B "6B".
# They have no 125M; use it to try a TPU slice.
PAPER_SIZES = {
  '125m': (12, 768, 12, 2048),
  '1.3b': (24, 2048, 16, 2048),
  '6b': (32, 4096, 32, 2048),
  '175b': (96, 12288, 96, 2048),
}
SIZES = LAB_SIZES | PAPER_SIZES

# The most tokens of a prompt, and of a response.
LENGTHS = {
  'micro': (48, 32),
  'tiny': (48, 32),
  'small': (96, 64),
  **dict.fromkeys(PAPER_SIZES, (1024, 1024)),
}  # appendix C: 1k each, in a context of 2k
# The same for all stages of studies on real data:
# `cpu` is for two cores and a model of 135M parameters, `full` is for one
# accelerator and up to a billion parameters.
REAL_LENGTHS = {'cpu': (128, 128), 'full': (512, 512)}


class Open(config_dict.ConfigDict):
  """A group of fields to which flags may add, as `fresh` makes them.

  ml_collections refuses a flag of a field that does not exist. Here the first
  flag of a new name makes its field.
  """

  fresh = config_dict.ConfigDict  # a subclass makes fields of its own kind

  def __getattr__(self, name):
    if not name.startswith('_') and name not in self:
      with self.unlocked():
        self[name] = self.fresh()
    return super().__getattr__(name)


def check_size(size, sizes=tuple(SIZES)):
  """Raises a ValueError if there is no such size."""
  if size not in sizes:
    raise ValueError(
      f'there is no size {size!r}; the sizes are {", ".join(sizes)}'
    )


def model(size):
  """Returns the architecture of GPT-3 (Brown et al. 2020) at a size."""
  check_size(size)
  num_layers, d_model, num_heads, max_len = SIZES[size]
  c = config_dict.ConfigDict()
  c.num_layers = num_layers
  c.d_model = d_model  # width
  c.num_heads = num_heads
  c.num_kv_heads = 0  # 0 = num_heads; fewer is grouped-query attention
  c.head_dim = 0  # 0 = d_model / num_heads
  c.d_ff = 0  # 0 = 4 * d_model
  c.max_len = max_len  # tokens of the longest example; learned positions
  c.norm = 'layernorm'  # or 'rmsnorm'
  c.norm_epsilon = 1e-5  # as in GPT-2
  c.norm_offset = 0.0  # added to the stored scales; 1 in Gemma 3
  c.qk_norm = False  # RMSNorm of q and k of each head: Qwen3, Gemma 3
  c.post_norm = False  # also normalize after attention and MLP: Gemma 3
  # Attention and MLP have the same input: GPT-NeoX.
  c.parallel_residual = False
  # GPT-3 learns positions. Laptop models see too few tokens to learn copying
  # with learned positions; with rotary positions they need a third of the
  # tokens.
  laptop = size in ('micro', 'tiny')
  c.positions = 'rotary' if laptop else 'learned'
  # Rotary only. On short texts, short wavelengths learn copying sooner.
  c.rope_theta = 100.0 if laptop else 10_000.0
  # Theta of layers with a window, which are not scaled then: 10,000 in Gemma 3.
  c.rope_theta_local = 0.0  # 0 = rope_theta
  # (), ('linear', factor), or ('llama3', factor, low, high, original length);
  # `low` and `high` are waves per original length, which is in tokens (Llama
  # 3.1).
  c.rope_scaling = ()
  c.rotary_fraction = 1.0  # rotated part of a head's width; 0.25 in Pythia
  # The number of positions that a layer sees, its own included, cycled over the
  # layers; 0 = all. GPT-3's banded layers may be (0, 256); their width is not
  # printed.
  c.windows = ()
  c.query_scale = 0.0  # scale of attention logits; 0 = 1 / sqrt(head width)
  # 'gelu' is the tanh approximation (GPT-2). Others: 'gelu_exact' (GPT-NeoX),
  # 'swiglu' (Llama, Qwen), 'geglu' (Gemma).
  c.mlp = 'gelu'
  c.use_bias = True  # biases in all projections
  c.qkv_bias = False  # biases in q, k and v even without use_bias: Qwen2
  c.embed_scale = False  # multiply embeddings by sqrt(width): Gemma
  c.tie_embeddings = True  # unembedding = embedding, as in GPT-2 and GPT-3
  # Pad the embeddings to a multiple that `tensor` divides: 50,257 is odd.
  c.vocab_multiple = 128 if size in PAPER_SIZES else 1
  # Rows of an imported embedding; 0 = number of tokens, padded as above.
  c.vocab_rows = 0
  # 'auto' uses a kernel in passes without a cache: splash attention on TPUs,
  # cuDNN on NVIDIA GPUs, tiles on one CPU. 'xla' uses none.
  c.attention = 'auto'
  # Without a kernel: queries whose attention is in memory at once; 0 = all. The
  # backward pass recomputes smaller blocks.
  c.attention_block = 256 if size in PAPER_SIZES else 0
  c.dropout = 0.0  # residual dropout; only SFT uses it
  # Standard deviation of initial weights. GPT-2's 0.02 fits its width; small
  # models use about 1 / sqrt(width), which halves the tokens to learn facts at
  # width 128.
  c.init_std = {'micro': 0.1, 'tiny': 0.08, 'small': 0.05}.get(size, 0.02)
  # Dtype of the computation. C: 16-bit weights and activations, fp32 masters.
  c.dtype = 'bfloat16' if size in PAPER_SIZES else 'float32'
  c.param_dtype = 'float32'  # dtype of the master weights
  # The backward pass recomputes nothing ('none'), all but products ('dots') or
  # everything ('full').
  c.remat = 'full' if size in PAPER_SIZES else 'none'
  # Layers per step of the scan over layers. Unrolling all layers of a small
  # model is a sixth faster on a CPU; with 1, 96 layers compile as fast as one.
  c.scan_unroll = num_layers if laptop else 1
  # The number of lowest layers that, with the embeddings, are not trained and
  # have no backward pass; 0 = train everything.
  c.frozen_layers = 0
  return c


def imported_model(source):
  """Returns a model with the architecture of an input, e.g. imported weights.

  Args:
    source: the name of the stage's input.
  """
  c = config_dict.ConfigDict()
  # When the stage begins, the architecture of this input replaces `like`.
  c.like = source
  gpt = model('125m')
  for name in HOW_COMPUTED:
    c[name] = gpt[name]
  c.dtype, c.remat, c.attention_block = 'float32', 'none', 0
  return c


def same_model(c):
  """Returns a model whose fields follow those of another until set."""
  return config_dict.ConfigDict({name: c.get_oneway_ref(name) for name in c})


def optimizer(peak_lr):
  """Returns the paper's optimizer: Adam with a cosine schedule."""
  c = config_dict.ConfigDict()
  c.peak_lr = peak_lr  # highest learning rate
  c.schedule = 'cosine'  # or 'constant'
  c.warmup_steps = 0  # optimizer steps
  c.warmup_from = 0.0  # first rate of the warmup, as a fraction of the peak
  c.final_fraction = 0.1  # last rate / peak of a cosine (C.1, C.2, C.3)
  c.b1 = 0.9  # appendix C
  c.b2 = 0.95  # appendix C
  c.eps = 1e-8  # not printed; Adam's default
  c.weight_decay = 0.0  # times the learning rate; not printed
  c.max_grad_norm = 1.0  # global norm, as in GPT-3 (not printed); 0 = off
  return c


def evals():
  """No evaluations in training; each is added by a line of its experiment.

  c.evals.NAME = dict(type='reward_model', every=10, num_prompts=32)

  runs it on the policy in training (PPO: its average) every 10 steps, and
  writes the metrics eval/NAME/.... See instructrl/evaluators/evaluator.py.
  """
  return config_dict.ConfigDict()


def base(size, stage, sizes=tuple(SIZES)):
  """Returns the fields of every stage."""
  check_size(size, sizes)
  c = config_dict.ConfigDict()
  c.stage = stage  # the stage that runs this config
  c.size = size  # size of the lab's world, and of this config's values
  # Seed of the lab (facts, texts, labelers), or of the split of public data.
  c.world_seed = 0
  c.train_seed = 0  # seed of weights, data order and sampling in training
  c.eval_seed = 0  # seed of sampling and bootstrap in evaluations
  # Run folders that the stage starts from. Relative paths start at the run
  # folder, so the stages of a study find each other.
  c.inputs = config_dict.ConfigDict()
  c.inputs.data = '../lab'  # prompts, demonstrations, rows and the tokenizer
  tensor = {'6b': 4, '175b': 8}.get(size, 1)
  # Sizes of the mesh axes; -1 = all remaining devices. `fsdp` shards models
  # that do not fit a device, and `tensor` too if a minibatch has fewer rows
  # than devices.
  c.mesh = config_dict.ConfigDict(
    dict(data=1, fsdp=-1, tensor=tensor)
    if size in PAPER_SIZES
    else dict(data=-1, fsdp=1, tensor=1)
  )
  c.rules = RULES
  c.checkpoint = config_dict.ConfigDict()
  c.checkpoint.every = 0  # steps between checkpoints; 0 = once an epoch
  c.checkpoint.keep = 2  # number of newest checkpoints to keep
  c.log = config_dict.ConfigDict()
  c.log.every = 1  # steps between lines of metrics.jsonl
  # Where the metrics go besides metrics.jsonl: 'tensorboard', 'wandb',
  # 'trackio'. The last two are installed by extras of these names.
  c.log.trackers = ()
  c.log.profile = ()  # (first, last) step of a profiler trace; () = none
  # Seconds after which a step hangs, if it also takes ten times the longest
  # before: the process prints its stacks and ends. 0 = never.
  c.log.hang_seconds = 300.0
  return c
