"""Hugging Face folders of a few thousand parameters, written without torch."""

import json

import numpy as np
from safetensors.numpy import save_file
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

from instructrl.interop import hf

LLAMA = dict(
  architectures=['LlamaForCausalLM'],
  model_type='llama',
  hidden_act='silu',
  hidden_size=32,
  intermediate_size=48,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  max_position_embeddings=64,
  rms_norm_eps=1e-5,
  rope_theta=10_000.0,
  tie_word_embeddings=False,
  vocab_size=320,
  bos_token_id=0,
  eos_token_id=1,
)
GPT2 = dict(
  architectures=['GPT2LMHeadModel'],
  model_type='gpt2',
  n_embd=32,
  n_head=4,
  n_layer=2,
  n_positions=64,
  vocab_size=320,
  bos_token_id=0,
  eos_token_id=1,
)
NUM_TOKENS = 300


def write_tokenizer(folder, num_tokens: int = NUM_TOKENS):
  """Writes a byte-level BPE tokenizer; <s> and </s> come first."""
  tok = tokenizers.Tokenizer(models.BPE())
  tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tok.decoder = decoders.ByteLevel()
  words = [f'{a}{b}{c}' for a in 'abcdefgh' for b in 'ijklm' for c in 'nopq']
  tok.train_from_iterator(
    [' '.join(words)] * 3,
    trainers.BpeTrainer(
      vocab_size=num_tokens,
      special_tokens=['<s>', '</s>'],
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  assert tok.get_vocab_size() == num_tokens
  tok.save(str(folder / 'tokenizer.json'))
  (folder / 'tokenizer_config.json').write_text(
    json.dumps({'bos_token': '<s>', 'eos_token': '</s>'})
  )


def write_folder(
  folder,
  config=None,
  *,
  seed: int = 0,
  dtype=np.float32,
  num_tokens: int = NUM_TOKENS,
  shards: int = 1,
):
  """Writes a model and its tokenizer; returns the tensors by name."""
  config = config or LLAMA
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps(config))
  (folder / 'generation_config.json').write_text(
    json.dumps({'temperature': 0.6, 'eos_token_id': [1, 7]})
  )
  write_tokenizer(folder, num_tokens)
  rng = np.random.default_rng(seed)
  tensors = {
    name: rng.normal(0, 0.3, shape).astype(dtype)
    for name, shape in hf.expected(config).items()
  }
  if shards == 1:
    save_file(tensors, folder / 'model.safetensors')
    return tensors
  places = {}
  for shard in range(shards):
    name = f'model-{shard + 1:05d}-of-{shards:05d}.safetensors'
    names = sorted(tensors)[shard::shards]
    places |= dict.fromkeys(names, name)
    save_file({n: tensors[n] for n in names}, folder / name)
  (folder / 'model.safetensors.index.json').write_text(
    json.dumps({'weight_map': places})
  )
  return tensors
