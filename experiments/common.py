"""What every experiment shares: seeds, model sizes, sharding, run folder.

`get_config(arg)` of an experiment starts from `base(size)`. `size` picks what
changes in several fields at once; everything else is an override by flag, as
in `--config.ppo.kl_coef=0.05`.
"""

from ml_collections import config_dict

from instructrl.stages.model_settings import HOW_COMPUTED

# Axis of a parameter or an activation -> mesh axis. One table, see
# instructrl/sharding.py; None leaves an axis whole.
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

# layers, width, heads, longest example in tokens.
LAB_SIZES = {  # of which there is a lab
  'micro': (2, 64, 2, 192),  # seconds; for tests
  'tiny': (4, 128, 4, 192),  # 0.9M parameters, minutes on two CPU cores
  'small': (8, 320, 5, 256),  # 10M parameters, minutes on an accelerator
}
# Brown et al. 2020, table 2.1, and its context of 2,048. For 1.3B the table has
# 24 heads of 128, which are not 2,048 wide. Ouyang et al. call 6.7B "6B"; they
# have no 125M, which is here to try a slice with.
PAPER_SIZES = {
  '125m': (12, 768, 12, 2048),
  '1.3b': (24, 2048, 16, 2048),
  '6b': (32, 4096, 32, 2048),
  '175b': (96, 12288, 96, 2048),
}
SIZES = LAB_SIZES | PAPER_SIZES

# Tokens of a prompt and of a response, at most.
LENGTHS = {
  'micro': (48, 32),
  'tiny': (48, 32),
  'small': (96, 64),
  **dict.fromkeys(PAPER_SIZES, (1024, 1024)),
}  # section 3.2, table 6
# Of studies on real data. `cpu` is what two cores do in two hours with a model
# of 135M parameters, `full` what one accelerator does with up to a billion.
REAL_LENGTHS = {'cpu': (128, 64), 'full': (512, 512)}


def check_size(size, sizes=tuple(SIZES)):
  if size not in sizes:
    raise ValueError(
      f'there is no size {size!r}; the sizes are {", ".join(sizes)}'
    )


def model(size):
  """The architecture of GPT-3 (Brown et al. 2020) at a size."""
  check_size(size)
  num_layers, d_model, num_heads, max_len = SIZES[size]
  c = config_dict.ConfigDict()
  c.num_layers = num_layers
  c.d_model = d_model  # width
  c.num_heads = num_heads
  c.num_kv_heads = 0  # 0 = num_heads; fewer is grouped-query attention
  c.head_dim = 0  # 0 = d_model / num_heads
  c.d_ff = 0  # 0 = 4 * d_model
  c.max_len = max_len  # learned positions; the longest example in tokens
  c.norm = 'layernorm'  # or 'rmsnorm'
  c.norm_epsilon = 1e-5  # GPT-2's
  c.norm_offset = 0.0  # added to the scales that are stored; Gemma 3's is 1
  c.qk_norm = False  # RMSNorm of q and k of each head: Qwen3, Gemma 3
  c.post_norm = False  # norms also after attention and MLP: Gemma 3
  # Attention and MLP both read what comes into a layer: GPT-NeoX.
  c.parallel_residual = False
  # GPT-3's positions are learned. The small models of a laptop see too few
  # tokens to learn copying with them: rotary ones take a third of the tokens.
  laptop = size in ('micro', 'tiny')
  c.positions = 'rotary' if laptop else 'learned'
  # Rotary only. Short texts learn to copy sooner with short wavelengths.
  c.rope_theta = 100.0 if laptop else 10_000.0
  # Of layers with a window, which then are not scaled: Gemma 3's is 10,000.
  c.rope_theta_local = 0.0  # 0 = as all others
  # ('linear', factor), or ('llama3', factor, low, high, original length): in
  # waves per original length and in tokens (Llama 3.1).
  c.rope_scaling = ()
  c.rotary_fraction = 1.0  # of a head's width that is rotated; Pythia's is 0.25
  # Positions that a layer sees, its own included, repeated over the layers; 0 =
  # all. GPT-3's banded layers are (0, 256) or so: it does not say how wide.
  c.windows = ()
  c.query_scale = 0.0  # of attention's logits; 0 = 1 / sqrt(width of a head)
  # tanh's approximation, as GPT-2's; 'gelu_exact' (GPT-NeoX), 'swiglu' (Llama,
  # Qwen) or 'geglu' (Gemma).
  c.mlp = 'gelu'
  c.use_bias = True  # in projections
  c.qkv_bias = False  # in those of attention's inputs, without use_bias: Qwen2
  c.embed_scale = False  # embeddings times sqrt(width): Gemma
  c.tie_embeddings = True  # GPT-2's and GPT-3's
  # Embeddings are padded to a multiple, which `tensor` divides: 50,257 is odd.
  c.vocab_multiple = 128 if size in PAPER_SIZES else 1
  # Rows of an imported embedding; 0 = the tokenizer's tokens, padded as above.
  c.vocab_rows = 0
  # 'auto' takes a kernel in passes without a cache: splash attention on TPUs,
  # cuDNN's on NVIDIA GPUs. 'xla' never does.
  c.attention = 'auto'
  # Without a kernel: queries whose attention is in memory at once; 0 = all.
  # Where it is less, the backward pass computes it again.
  c.attention_block = 256 if size in PAPER_SIZES else 0
  c.dropout = 0.0  # residual; only SFT uses it
  # GPT-2's 0.02 suits its width; about 1 / sqrt(width) elsewhere. At width 128
  # facts take half the tokens with it.
  c.init_std = {'micro': 0.1, 'tiny': 0.08, 'small': 0.05}.get(size, 0.02)
  # Of the computation. C: 16-bit weights and activations, fp32 masters.
  c.dtype = 'bfloat16' if size in PAPER_SIZES else 'float32'
  c.param_dtype = 'float32'  # of the master weights
  # 'full' or 'dots' recompute in the backward pass.
  c.remat = 'full' if size in PAPER_SIZES else 'none'
  # Layers per step of the scan over layers. All of a small model at once is a
  # sixth faster on a CPU; one compiles 96 layers as fast as one.
  c.scan_unroll = num_layers if laptop else 1
  # The lowest so many layers and the embeddings are not trained, and cost no
  # backward pass; 0 = everything is trained.
  c.frozen_layers = 0
  return c


def imported_model(source):
  """A model of the architecture of an input: of imported weights, say.

  Args:
    source: which of the stage's inputs.
  """
  c = config_dict.ConfigDict()
  # The fields that say what is computed are those of the model that this input
  # trained; they take the place of `like` when the stage begins.
  c.like = source
  gpt = model('125m')
  for name in HOW_COMPUTED:
    c[name] = gpt[name]
  c.dtype, c.remat, c.attention_block = 'float32', 'none', 0
  return c


def same_model(c):
  """A model whose fields follow those of another until they are set."""
  return config_dict.ConfigDict({name: c.get_oneway_ref(name) for name in c})


def optimizer(peak_lr):
  c = config_dict.ConfigDict()
  c.peak_lr = peak_lr
  c.schedule = 'cosine'  # or 'constant'
  c.warmup_steps = 0  # optimizer steps
  c.warmup_from = 0.0  # fraction of the peak at which the warmup starts
  c.final_fraction = 0.1  # cosine ends at 10% of the peak (C.1, C.2, C.3)
  c.b1 = 0.9  # appendix C: Adam with 0.9, 0.95 everywhere
  c.b2 = 0.95
  c.eps = 1e-8  # not printed; Adam's default
  c.weight_decay = 0.0  # not printed
  c.max_grad_norm = 1.0  # not printed; GPT-3's. 0 = no clipping
  return c


def evals():
  """No evaluations in training; each is added by a line of its experiment.

  c.evals.NAME = dict(type='reward_model', every=10, num_prompts=32)

  runs it on the policy in training (PPO: its average) every 10 steps, and
  writes the metrics eval/NAME/.... See instructrl/evaluators/protocol.py.
  """
  return config_dict.ConfigDict()


def base(size, stage, sizes=tuple(SIZES)):
  """Fields of every stage."""
  check_size(size, sizes)
  c = config_dict.ConfigDict()
  c.stage = stage  # which trainer runs this config
  c.size = size  # of the lab's world; elsewhere what the config was made for
  # The lab: facts, texts, labelers; of public data: the split and other draws.
  c.world_seed = 0
  c.train_seed = 0  # initial weights, order of the data, sampling in training
  c.eval_seed = 0  # sampling and bootstrap of evaluations
  # Paths of what the stage starts from; relative ones start at the run folder,
  # so that a study's stages, which lie side by side, find each other.
  c.inputs = config_dict.ConfigDict()
  c.inputs.data = '../lab'  # prompts, demonstrations, rows and the tokenizer
  # Mesh sizes; -1 is all devices that are left. Models that do not fit one
  # device are split: by `fsdp`, and by `tensor` where a minibatch has fewer
  # rows than there are devices.
  tensor = {'6b': 4, '175b': 8}.get(size, 1)
  c.mesh = config_dict.ConfigDict(
    dict(data=1, fsdp=-1, tensor=tensor)
    if size in PAPER_SIZES
    else dict(data=-1, fsdp=1, tensor=1)
  )
  c.rules = RULES
  c.checkpoint = config_dict.ConfigDict()
  c.checkpoint.every = 0  # steps between checkpoints; 0 = once an epoch
  c.checkpoint.keep = 2  # newest ones kept
  c.log = config_dict.ConfigDict()
  c.log.every = 1  # steps between lines of metrics.jsonl
  c.log.tensorboard = False  # also write TensorBoard files
  # A step that takes longer than so many seconds, and than ten of those before
  # it, ends the process with its stacks; 0 = it may hang.
  c.log.hang_seconds = 300.0
  return c
