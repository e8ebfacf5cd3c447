"""Small tokenizers and chat templates in the form of each model family."""

import io
import json
import pathlib

import sentencepiece
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import trainers

from instructrl.tokenizers import hf_json

LINES = [
  'The capital of France is Paris, and that of Spain is Madrid.',
  'Where was Mara born? She was born in Oakton, in the year 1984.',
  'A user asks what the assistant is to do; the model then answers.',
  "It's 10 o'clock:\n\n    print('hello')\n",
  'Human: what is it?\n\nAssistant: It is a system of sheep.',
] * 4

CHATML = (
  "{% for message in messages %}{% if loop.first and message['role'] != "
  "'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}"
  "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
  "'<|im_end|>' + '\\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = """{{- bos_token }}
{%- if strftime_now is defined %}
    {%- set date_string = strftime_now("%Y") %}
{%- else %}
    {%- set date_string = "1984" %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nIt is ' + date_string }}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
LLAMA2 = (
  "{% for message in messages %}{% if message['role'] == 'user' %}"
  "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}"
  "{% elif message['role'] == 'assistant' %}"
  "{{ ' ' + message['content'].strip() + ' ' + eos_token }}"
  "{% else %}{{ raise_exception('only users and assistants') }}{% endif %}"
  '{% endfor %}'
)
GEMMA = (
  "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
  "{{ raise_exception('no system role') }}{% endif %}"
  "{% for message in messages %}{% if message['role'] == 'assistant' %}"
  "{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
  "{% endif %}{{ '<start_of_turn>' + role + '\\n' + "
  "message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
# An answer begins with an empty block of thought, in dialogues only.
THINKING = CHATML.replace(
  "message['content'] +",
  "('<think>\\n\\n</think>\\n\\n' if message['role'] == 'assistant' else '') "
  "+ message['content'] +",
)


def bpe(specials, *, plain=(), splits='gpt2', bos=None):
  """Returns a tokenizer.json of byte-level BPE."""
  tok = tokenizers.Tokenizer(models.BPE())
  tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tok.train_from_iterator(
    LINES,
    trainers.BpeTrainer(
      vocab_size=420,
      show_progress=False,
      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    ),
  )
  model = json.loads(tok.to_str())['model']
  vocab = model['vocab']
  tokens = [*specials, *plain]
  ids = {token: len(vocab) + i for i, token in enumerate(tokens)}
  return hf_json.byte_level(
    {**vocab, **({bos: ids[bos]} if bos else {})},
    model['merges'],
    [hf_json.added_token(ids[t], t, t in specials) for t in tokens],
    splits,
    bos,
  )


def sentencepiece_model(model_type='bpe', **options) -> bytes:
  """Returns a model file like Llama's (`add_dummy_prefix`) or Gemma's."""
  out = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter('\n'.join(LINES).split('\n')),
    model_writer=out,
    model_type=model_type,
    byte_fallback=True,
    vocab_size=330,
    hard_vocab_limit=False,
    normalization_rule_name='identity',
    remove_extra_whitespaces=False,
    minloglevel=2,
    **options,
  )
  return out.getvalue()


def write(folder, tokenizer, *, rows=0, **config) -> pathlib.Path:
  """Writes a folder of Hugging Face files."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  if isinstance(tokenizer, bytes):
    (folder / 'tokenizer.model').write_bytes(tokenizer)
  else:
    (folder / 'tokenizer.json').write_text(json.dumps(tokenizer))
  (folder / 'tokenizer_config.json').write_text(
    json.dumps({'tokenizer_class': 'PreTrainedTokenizerFast', **config})
  )
  (folder / 'config.json').write_text(
    json.dumps({'vocab_size': rows} if rows else {})
  )
  return folder


def legacy_unigram():
  """Returns a unigram tokenizer whose special strings are also pieces."""
  pieces = [('<unk>', 0.0), ('<s>', -1.0), ('</s>', -1.0)]
  pieces += [(f'<0x{byte:02X}>', -20.0) for byte in range(256)]
  pieces += [(letter, -5.0) for letter in hf_json.SPACE + '</s>abcdefghi']
  pieces = list(dict(pieces).items())
  tok = tokenizers.Tokenizer(models.Unigram(pieces, 0, True))
  tok.normalizer = normalizers.Replace(' ', hf_json.SPACE)
  tok.decoder = decoders.Sequence(
    [
      decoders.Replace(hf_json.SPACE, ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
    ]
  )
  return json.loads(tok.to_str())


def made(folder) -> dict[str, pathlib.Path]:
  """Writes the tokenizer of each family; returns {family: folder}."""
  folder = pathlib.Path(folder)
  llama3 = [
    '<|begin_of_text|>',
    '<|end_of_text|>',
    '<|eot_id|>',
    '<|start_header_id|>',
    '<|end_header_id|>',
    '<|reserved_special_token_0|>',
  ]
  chatml = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
  gemma = sentencepiece_model(
    add_dummy_prefix=False,
    control_symbols=['<start_of_turn>'],
    user_defined_symbols=['<end_of_turn>', '<b>'],
    pad_id=3,
  )
  end = '<|endoftext|>'
  return {
    'gpt2': write(
      folder / 'gpt2', bpe([end]), bos_token=end, eos_token=end, unk_token=end
    ),
    'neox': write(
      folder / 'neox',
      bpe([end, '<|padding|>'], plain=['    ']),
      bos_token=end,
      eos_token=end,
      rows=512,
    ),
    'llama3': write(
      folder / 'llama3',
      bpe(llama3, splits='llama3', bos=llama3[0]),
      bos_token=llama3[0],
      eos_token=llama3[2],
      chat_template=LLAMA3,
    ),
    'qwen2': write(
      folder / 'qwen2',
      bpe(chatml, plain=['<tool_call>'], splits='qwen2'),
      eos_token=chatml[2],
      pad_token=chatml[0],
      chat_template=CHATML,
      rows=512,
    ),
    'qwen3': write(
      folder / 'qwen3',
      bpe(chatml, plain=['<think>', '</think>'], splits='qwen2'),
      eos_token=chatml[2],
      pad_token=chatml[2],
      chat_template=THINKING,
      rows=512,
    ),
    'smollm': write(
      folder / 'smollm',
      bpe([*chatml, '<empty_output>'], splits='digits'),
      bos_token=chatml[1],
      eos_token=chatml[2],
      pad_token=chatml[2],
      unk_token=chatml[0],
      chat_template=CHATML,
    ),
    'llama2': write(
      folder / 'llama2', sentencepiece_model(), chat_template=LLAMA2
    ),
    'gemma': write(folder / 'gemma', gemma, chat_template=GEMMA),
    'unigram': write(
      folder / 'unigram', sentencepiece_model('unigram'), rows=400
    ),
    'legacy': write(
      folder / 'legacy',
      legacy_unigram(),
      bos_token='<s>',
      eos_token='</s>',
      unk_token='<unk>',
      rows=400,
    ),
  }
