"""Makes one example of tokens, in numpy; shifting and masking happen here.

The tokenizer lays texts out (BOS, EOS, USER and ASSISTANT are ids, never typed
text). The layouts of the package's own tokenizer are:
  document       BOS text EOS
  chat prompt    BOS USER prompt ASSISTANT; the answer is: response EOS. Earlier
                 turns of a dialogue come first, in the same layout
  plain prompt   BOS text, for a base model to continue

The example of a language model is shifted here, and nowhere else: `targets[i]`
is the token after `tokens[i]`, `loss_mask[i]` says whether the target counts.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from instructrl.data.packing import Example
from instructrl.data.packing import pack_rows
from instructrl.data.packing import Rows
from instructrl.data.records import Demonstration, Document, Prompt
from instructrl.types import PREFIX, PromptBatch, RankingBatch


def chat_prompt(tok, prompt: str | Prompt) -> list[int]:
  """Lays out a prompt, up to where the response begins."""
  if isinstance(prompt, str):
    return tok.prompt(prompt)
  return tok.prompt(prompt.text, prompt.turns)


def plain_prompt(tok, text: str) -> list[int]:
  """Lays out text for a base model to continue."""
  return tok.plain(text)


def response_tokens(tok, text: str, max_len: int) -> list[int]:
  """Lays out a response; cuts it, and its EOS, at `max_len` tokens."""
  if max_len < 1:
    raise ValueError(f'a response needs room for 1 token, max_len is {max_len}')
  return tok.response(text)[:max_len]


def cut_at_eos(tokens: Sequence[int], eos_id: int) -> list[int]:
  """Drops the tokens after the first EOS, if there is one."""
  tokens = list(tokens)
  return tokens[: tokens.index(eos_id) + 1] if eos_id in tokens else tokens


def fits(tokens: Sequence[int], max_len: int) -> bool:
  """Returns whether a prompt is kept; the paper drops longer ones."""
  return len(tokens) <= max_len


def lm_example(tokens: Sequence[int], loss_from: int = 1) -> Example:
  """Shifts a sequence by one token.

  Args:
    tokens: N + 1 token ids.
    loss_from: index in `tokens` of the first token to be predicted: 1 for a
      document (all but BOS), the prompt's length for a demonstration (the
      response and EOS only).

  Returns:
    An example of N positions.

  Raises:
    ValueError: nothing would be predicted.
  """
  tokens = np.asarray(tokens, np.int32)
  if not 1 <= loss_from < len(tokens):
    raise ValueError(
      f'loss_from is {loss_from} for a sequence of {len(tokens)} tokens: it '
      'must leave a token to predict'
    )
  loss_mask = np.arange(1, len(tokens)) >= loss_from
  return Example(tokens[:-1], tokens[1:], loss_mask)


def fullness(rows: Rows) -> float:
  """Returns the share of positions that are not padding."""
  return float((rows['segment_ids'] > 0).mean())


def document_examples(documents: Iterable[Document], tok) -> Iterator[Example]:
  """Yields the examples of documents; every token but BOS is predicted."""
  for document in documents:
    yield lm_example(tok.document(document.text))


def document_rows(documents: Iterable[Document], tok, row_len: int) -> Rows:
  """Packs documents in memory."""
  return pack_rows(document_examples(documents, tok), row_len)


def sft_example(
  demonstration: Demonstration,
  tok,
  max_len: int,
  response_len: int | None = None,
) -> Example:
  """Makes the example of a demonstration; only the response is predicted.

  Args:
    demonstration: prompt and response.
    tok: the tokenizer.
    max_len: positions; a longer response is cut.
    response_len: tokens of the response at most, EOS included.

  Raises:
    ValueError: the prompt leaves no room for a response.
  """
  prompt = chat_prompt(tok, demonstration.prompt)
  room = max_len + 1 - len(prompt)  # the last target needs no position
  if room < 1:
    raise ValueError(
      f'prompt {demonstration.prompt.id!r} has {len(prompt)} tokens, there '
      f'are {max_len} positions: drop the prompt first (see `fits`)'
    )
  response = response_tokens(
    tok, demonstration.response, min(room, response_len or room)
  )
  return lm_example(prompt + response, loss_from=len(prompt))


def sft_examples(
  demonstrations: Iterable[Demonstration],
  tok,
  row_len: int,
  *,
  response_len: int | None = None,
) -> Iterator[Example]:
  """Yields `sft_example` of each demonstration."""
  for demonstration in demonstrations:
    yield sft_example(demonstration, tok, row_len, response_len)


def sft_rows(
  demonstrations: Iterable[Demonstration], tok, row_len: int, **kwargs
) -> Rows:
  """Packs demonstrations in memory; arguments as for `sft_examples`."""
  examples = sft_examples(demonstrations, tok, row_len, **kwargs)
  return pack_rows(examples, row_len)


def ranking_length(
  prompt: Sequence[int], responses: Sequence[Sequence[int]], eos_id: int
) -> int:
  """Returns the columns that `ranking_example` fills."""
  return len(prompt) + sum(len(cut_at_eos(r, eos_id)) for r in responses)


def ranking_example(
  prompt: Sequence[int],
  responses: Sequence[Sequence[int]],
  ranks: Sequence[int],
  *,
  max_k: int,
  seq_len: int,
  eos_id: int,
  pad_id: int = 0,
) -> RankingBatch:
  """Makes one element of a ranking batch.

  Args:
    prompt: tokens of the prompt.
    responses: tokens of the K responses; tokens after the first EOS are cut.
    ranks: K; 0 = best, equal = tie.
    max_k: rows of the element; those above K are padding.
    seq_len: T, columns of the element; see `ranking_length`.
    eos_id: the token that ends a response.
    pad_id: the token of padding.

  Returns:
    A `RankingBatch` without the batch axis: tokens [T], last [max_k].

  Raises:
    ValueError: K is not in 2..max_k, the ranks do not match, a response is
      empty, or prompt and responses are longer than T.
  """
  k = len(responses)
  if not 2 <= k <= max_k:
    raise ValueError(f'there are {k} responses, there must be 2 to {max_k}')
  if len(ranks) != k:
    raise ValueError(f'there are {len(ranks)} ranks for {k} responses')
  responses = [cut_at_eos(response, eos_id) for response in responses]
  for i, response in enumerate(responses):
    if not response:
      raise ValueError(f'response {i} has no tokens; an empty one is EOS')
  length = len(prompt) + sum(map(len, responses))
  if length > seq_len:
    raise ValueError(
      f'prompt and responses have {length} tokens, the limit is {seq_len}'
    )
  tokens = np.full(seq_len, pad_id, np.int32)
  segment_ids = np.zeros(seq_len, np.int32)
  positions = np.zeros(seq_len, np.int32)
  last = np.zeros(max_k, np.int32)
  first = len(prompt)
  tokens[:first], segment_ids[:first] = prompt, PREFIX
  positions[:first] = np.arange(first)
  for i, response in enumerate(responses):
    part = slice(first, first + len(response))
    tokens[part], segment_ids[part] = response, i + 1
    positions[part] = len(prompt) + np.arange(len(response))
    first = part.stop
    last[i] = first - 1
  return RankingBatch(
    tokens=tokens,
    segment_ids=segment_ids,
    positions=positions,
    last=last,
    ranks=np.asarray([*ranks, *[0] * (max_k - k)], np.int32),
    valid=np.arange(max_k) < k,
  )


def prompt_example(
  tokens: Sequence[int], prompt_len: int, *, index: int = 0, pad_id: int = 0
) -> PromptBatch:
  """Makes one element of a prompt batch, padded on the left.

  Args:
    tokens: tokens of the prompt.
    prompt_len: P, columns of the element.
    index: index of the example in the data set.
    pad_id: the token of padding.

  Returns:
    A `PromptBatch` without the batch axis: tokens [P], mask [P], index [].

  Raises:
    ValueError: the prompt is empty or does not fit.
  """
  length = len(tokens)
  if not 1 <= length <= prompt_len:
    raise ValueError(
      f'prompt {index} has {length} tokens, there must be 1 to {prompt_len}'
    )
  padded = np.full(prompt_len, pad_id, np.int32)
  padded[prompt_len - length :] = tokens
  return PromptBatch(
    tokens=padded,
    mask=np.arange(prompt_len) >= prompt_len - length,
    index=np.int32(index),
  )
