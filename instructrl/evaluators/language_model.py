"""Policies as text in, text out.

An `Engine` holds the jitted functions of one architecture; policies of the
same shape share it, so each is compiled once. A `LanguageModel` is an engine
with parameters, a name and a way to lay out prompts.
"""

from collections.abc import Sequence
import functools

import jax
import numpy as np

from instructrl import masked
from instructrl import rng
from instructrl import rollout
from instructrl.data import tasks
from instructrl.data.records import Prompt
from instructrl.evaluators import batching
from instructrl.models.transformer import Model
from instructrl.rollout import slots
from instructrl.runtime import processes
from instructrl.types import LMBatch, Params, PromptBatch

TEMPLATES = ('chat', 'plain', 'few_shot')
_BUCKET = 32  # tokens; see `_bucket`
_SCORED = 16  # the same for texts that are scored: many are short
_BATCHES = 4  # batches of rows for one call of `slots.generate`


def _bucket(length: int, least: int = _BUCKET) -> int:
  """Returns the width to pad a length to; few widths, as each compiles once."""
  width = least if length <= 2 * _BUCKET else 2 * _BUCKET
  return -(-max(length, 1) // width) * width


class Engine:
  """Batched sampling and scoring of one architecture."""

  def __init__(
    self, model: Model, tok, *, batch_size: int = 64, logits_chunk: int = 4096
  ):
    self.model, self.tok = model, tok
    self.batch_size, self.logits_chunk = batch_size, logits_chunk

  @functools.cached_property
  def _generate(self):
    def run(
      params,
      prompts,
      key,
      rows,
      prompt_of,
      count,
      max_tokens,
      temperature,
      stop_id,
      response_len,
      top_p,
    ):
      out, _ = slots.generate(
        self.model,
        params,
        prompts,
        key,
        slots=self.batch_size,
        response_len=response_len,
        eos_id=self.tok.eos_id,
        pad_id=self.tok.pad_id,
        temperature=temperature,
        top_p=top_p,
        rows=rows,
        prompt_of=prompt_of,
        count=count,
        max_tokens=max_tokens,
        stop_id=stop_id,
      )
      return out.tokens, out.mask

    return jax.jit(run, static_argnums=(9, 10))

  @functools.cached_property
  def _score(self):
    def run(params, batch):
      logprobs = rollout.packed_logprobs(
        self.model, params, batch, self.logits_chunk, skip=True
      )
      return masked.masked_sum(logprobs, batch.loss_mask, axis=1)

    return jax.jit(run)

  def _prompts(self, prompts, size: int) -> PromptBatch:
    """Lays out prompts; copies of the last one fill up the `size` rows."""
    width = _bucket(max(map(len, prompts)))
    filled = [*prompts, *[prompts[-1]] * (size - len(prompts))]
    built = [
      tasks.prompt_example(p, width, index=i, pad_id=self.tok.pad_id)
      for i, p in enumerate(filled)
    ]
    return jax.tree.map(lambda *x: np.stack(x), *built)

  def generate(
    self,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    seed: int,
    purpose: rng.Purpose,
    temperature: float,
    top_p: float = 1.0,
    stop_id: int = -1,
    rows: Sequence[int] | None = None,
  ) -> list[list[int]]:
    """Samples a response to each prompt, EOS included.

    A response depends on the seed, the purpose and the row number of its
    prompt (its place in `prompts` by default), not on the batch size. Equal
    prompts pass through the model once.

    Raises:
      ValueError: the temperature is negative, or a prompt is too long.
    """
    if temperature < 0:  # traced below, where it cannot be checked
      raise ValueError(f'temperature must be 0 or more, not {temperature}')
    rows = range(len(prompts)) if rows is None else rows
    key = rng.key(seed, purpose)

    size = _BATCHES * self.batch_size

    def sample(part):
      some, numbers = zip(*part)
      place = {prompt: i for i, prompt in enumerate(dict.fromkeys(some))}
      filled = lambda x: np.pad(np.asarray(x, np.int32), (0, size - len(part)))
      longest = max(map(len, some))
      self.model.check_length(
        longest + max_tokens, 'a prompt with its response'
      )
      tokens, mask = processes.fetch(
        self._generate(
          params,
          self._prompts(list(place), size),
          key,
          filled(numbers),
          filled([place[prompt] for prompt in some]),
          np.int32(len(part)),
          np.int32(max_tokens),
          np.float32(temperature),
          np.int32(stop_id),
          _bucket(max_tokens),
          top_p,
        )
      )
      return [row[keep].tolist() for row, keep in zip(tokens, mask)]

    return batching.by_length(
      sample,
      list(zip(map(tuple, prompts), rows, strict=True)),
      size,
      lambda item: len(item[0]),
    )

  def score(
    self,
    params: Params,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
  ) -> np.ndarray:
    """Returns the summed log-probability of each response, [N] float32."""

    def sums(part):
      rows = [[*p, *r] for p, r in part]
      longest = max(map(len, rows))
      self.model.check_length(longest, 'a prompt with its continuation')
      shape = (self.batch_size, _bucket(longest, _SCORED))
      tokens, mask = batching.right_padded(rows, shape, self.tok.pad_id)
      column, filled = np.arange(shape[1], dtype=np.int32), [0] * shape[0]
      filled[: len(part)] = [len(p) for p, _ in part]
      is_target = mask & (column >= np.asarray(filled)[:, None])
      batch = LMBatch(
        tokens=tokens,
        targets=np.roll(tokens, -1, axis=1),
        loss_mask=np.roll(is_target, -1, axis=1),
        positions=np.where(mask, column, 0),
        segment_ids=mask.astype(np.int32),
      )
      return processes.fetch(self._score(params, batch))

    found = batching.by_length(
      sums,
      list(zip(prompts, responses, strict=True)),
      self.batch_size,
      lambda item: len(item[0]) + len(item[1]),
    )
    return np.asarray(found, np.float32)


class LanguageModel:
  """A policy that reads and writes text."""

  def __init__(
    self,
    name: str,
    engine: Engine,
    params: Params,
    *,
    template: str = 'chat',
    few_shot: str = '',
    response_len: int = 64,
  ):
    """Binds parameters and a template.

    Args:
      name: of the policy.
      engine: of its architecture.
      params: its parameters.
      template: how a prompt is laid out. 'chat' is the tokenizer's layout;
        'plain' continues the prompt and a line break, as one asks a base model;
        'few_shot' continues `few_shot` up to the end of the line.
      few_shot: text with `{prompt}` in place of the prompt.
      response_len: largest number of tokens in an answer.
    """
    if template not in TEMPLATES:
      raise ValueError(
        f'template must be one of {", ".join(TEMPLATES)}; got {template!r}'
      )
    if template == 'few_shot' and '{prompt}' not in few_shot:
      raise ValueError('few_shot must contain {prompt}')
    self.name, self.engine, self.params = name, engine, params
    self.template, self._few_shot = template, few_shot
    self._response_len = response_len

  @property
  def tok(self):
    return self.engine.tok

  @property
  def _line_end(self) -> str | None:
    """The end of an answer, if the template has one answer a line."""
    return '\n' if self.template == 'few_shot' else None

  def lay_out(self, prompt: str | Prompt) -> list[int]:
    """Returns the tokens of a prompt in the policy's template."""
    if self.template == 'chat':
      return tasks.chat_prompt(self.tok, prompt)
    text = prompt if isinstance(prompt, str) else prompt.text
    if self.template == 'plain':
      return tasks.plain_prompt(self.tok, text + '\n')
    return tasks.plain_prompt(
      self.tok, self._few_shot.replace('{prompt}', text)
    )

  def sample_tokens(
    self,
    prompts: Sequence[str | Prompt],
    *,
    temperature: float,
    seed: int,
    top_p: float = 1.0,
    purpose: rng.Purpose = rng.Purpose.EVALUATION,
    rows: Sequence[int] | None = None,
    stop: str | None = None,
  ) -> list[list[int]]:
    """Answers each prompt, laid out by the template. Returns tokens.

    Args:
      prompts: N prompts.
      temperature: 0 is greedy.
      seed: of the sampling.
      top_p: nucleus; 1 is the whole distribution.
      purpose: see `rng.key`.
      rows: N row numbers, see `Engine.generate`.
      stop: text that ends an answer; if it is one token, sampling ends there.
    """
    return self.engine.generate(
      self.params,
      [self.lay_out(prompt) for prompt in prompts],
      max_tokens=self._response_len,
      seed=seed,
      purpose=purpose,
      temperature=temperature,
      top_p=top_p,
      stop_id=self._stop_id(stop or self._line_end),
      rows=rows,
    )

  def respond(
    self, prompts: Sequence[str | Prompt], *, stop: str | None = None, **kwargs
  ) -> list[str]:
    """Answers each prompt as text, up to `stop`, without outer white space.

    Arguments as for `sample_tokens`. An answer that begins with `stop` is
    empty.
    """
    sampled = self.sample_tokens(prompts, stop=stop, **kwargs)
    stop = stop or self._line_end
    return [self._text(tokens, stop).strip() for tokens in sampled]

  def complete(
    self,
    texts: Sequence[str],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    stop: str | None = '\n',
  ) -> list[str]:
    """Continues plain text, up to `stop`."""
    tok = self.engine.tok
    out = self.engine.generate(
      self.params,
      [tasks.plain_prompt(tok, text) for text in texts],
      max_tokens=max_tokens,
      seed=seed,
      purpose=rng.Purpose.PROBE,
      temperature=temperature,
      stop_id=self._stop_id(stop),
    )
    return [self._text(ids, stop) for ids in out]

  def logprobs(
    self, contexts: Sequence[str], continuations: Sequence[str]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Summed log-probabilities and token counts of the continuations.

    An empty context is BOS; where the model has none, the end of a document,
    after which another begins.
    """
    tok = self.engine.tok
    tokens = [tok.continuation(text) for text in continuations]
    sums = self.engine.score(
      self.params,
      [
        tasks.plain_prompt(tok, text) or [tok.document_eos_id]
        for text in contexts
      ],
      tokens,
    )
    return sums, np.asarray([len(t) for t in tokens])

  def _stop_id(self, stop: str | None) -> int:
    """The id of a stop text that is one piece; else it is cut from the text."""
    ids = self.engine.tok.continuation(stop) if stop else []
    return ids[0] if len(ids) == 1 else -1

  def _text(self, ids: Sequence[int], stop: str | None) -> str:
    text = self.engine.tok.decode(ids)
    return text.split(stop)[0] if stop else text
