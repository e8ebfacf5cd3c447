"""Samples responses in a fixed number of slots (continuous batching).

`rollout.generate` decodes all rows until the longest response has ended. Here a
slot whose response has ended takes the next waiting row, so few steps decode
padding. What is sampled depends on the key, the row and the position only, so
both functions sample the same tokens.

                    waiting rows, the shortest prompt first
                                     |
     stage    a group of prompts passes through the model once, in chunks of
              columns; chunks that hold only padding are left out
                                     |
     fill     a free slot copies the keys and values of its row's prompt, and
              samples the row's first token
                                     |
     decode   one step of all slots; a slot whose response ends is free
                                     |
     shrink   if no rows wait, the live slots move to a batch of a quarter

A slot's cache has the prompt in columns 0 to P - 1. The columns from P on are a
ring: every step writes one column of all slots, whichever token of its response
a slot is at. So a step writes to the cache in place.

Axis legend: B rows, N prompts, S slots, G prompts of a group, P prompt columns,
R response columns, V vocabulary.
"""

from collections.abc import Callable
import dataclasses
from typing import cast

import chex
import jax
import jax.numpy as jnp

from instructrl import rollout
from instructrl import sampling
from instructrl.models import caches
from instructrl.models.transformer import Cache
from instructrl.models.transformer import Model
from instructrl.runtime import sharding
from instructrl.types import Params, PromptBatch, pytree

_CHUNK = 16  # columns, at least, of one pass over prompts
_CHUNKS = 8  # passes over a prompt of P tokens, at most
_GROUPS = 2  # passes over as many prompts as there are slots
_SHRINK = 4  # times fewer slots when no rows wait; one more compiled program
_SHRINKS = 2  # at most


@pytree
class Computed:
  """Counts of computed columns, padding included."""

  prompt: jax.Array  # [] int32, columns of prompts
  decode: jax.Array  # [] int32, steps times slots


@pytree
class _Queue:
  """Rows and prompts in the order of sampling; every device has all of them."""

  rows: jax.Array  # [B] int32, a permutation of the rows
  place: jax.Array  # [B] int32, for each row, the place of its prompt
  tokens: jax.Array  # [N', P] int32, prompts by place, left-padded
  mask: jax.Array  # [N', P] bool
  count: jax.Array  # [] int32, the number of rows to sample


@pytree
class _Staged:
  """The prompts at places `base` to `base` + G - 1, after their pass."""

  base: jax.Array  # [] int32
  cache: Cache  # [G, P]
  logits: jax.Array  # [G, V'] float32, of the first token


@pytree
class _Slots:
  """The rows that are being sampled."""

  cache: Cache  # [S, P + R]
  row: jax.Array  # [S] int32; -1 if the slot is free
  token: jax.Array  # [S] int32, the newest token
  drawn: jax.Array  # [S] int32, the number of tokens so far
  length: jax.Array  # [S] int32, of the prompt


@pytree
class _State:
  staged: _Staged
  slots: _Slots
  next: jax.Array  # [] int32, the first waiting place of the queue
  step: jax.Array  # [] int32
  out: rollout.Responses  # [B, R]
  work: Computed


def generate(
  model: Model,
  params: Params,
  prompts: PromptBatch,
  key: jax.Array,
  *,
  slots: int,
  response_len: int,
  eos_id: int,
  pad_id: int,
  temperature: chex.Numeric = 1.0,
  top_p: float = 1.0,
  rows: jax.Array | None = None,
  prompt_of: jax.Array | None = None,
  count: jax.Array | None = None,
  max_tokens: jax.Array | None = None,
  stop_id: jax.Array | int = -1,
) -> tuple[rollout.Responses, Computed]:
  """Samples a response for each row, `slots` of them at once; jittable.

  The arguments that are not listed are those of `rollout.generate`. Tokens
  equal those of `rollout.generate`, and log-probabilities differ by rounding.

  Args:
    model: the architecture.
    params: its parameters.
    prompts: [N, P], left-padded.
    key: [] typed key, see `rng.key`.
    slots: S, rounded up to a multiple of the parts of the mesh (data x fsdp).
    response_len: R.
    eos_id: the token that ends a response, and is part of it.
    pad_id: the token after the end.
    temperature: divides the logits; 0 is greedy. May be traced.
    top_p: see `sampling.sample_tokens`.
    rows: [B] int32 global row numbers; 0..B-1 by default.
    prompt_of: [B] int32, the prompt of each row; row i has prompt i by default.
      Rows that share a prompt share its pass through the model.
    count: [] int32; only the first `count` rows are sampled, all by default.
      The other rows have no tokens.
    max_tokens: [] or [B] int32, a limit below R; R by default.
    stop_id: [] int32, another token that ends a response; -1 for none.

  Returns:
    (responses [B, R], counts of what was computed).
  """
  if prompt_of is None:
    prompt_of = jnp.arange(len(prompts.tokens))
  rows = jnp.arange(len(prompt_of)) if rows is None else rows
  prompts, rows, prompt_of = sharding.whole(
    jax.tree.map(jnp.asarray, (prompts, rows, prompt_of)), model.module.rules
  )
  parts = sharding.batch_parts(model.module.rules)
  slots = -(-min(slots, len(rows)) // parts) * parts
  group = -(-slots // (_GROUPS * parts)) * parts
  engine = _Engine(
    model=model,
    params=model.prepared(params),
    unembedding=model.unembedding(params).T,
    sample=lambda logits, rows, positions: sampling.sample_tokens(
      logits,
      sampling.row_keys(key, rows, positions),
      temperature=temperature,
      top_p=top_p,
    ),
    is_end=lambda token: (token == eos_id) | (token == stop_id),
    rows=rows,
    queue=_queue(
      prompts, prompt_of, len(rows) if count is None else count, group
    ),
    limits=jnp.broadcast_to(
      response_len if max_tokens is None else max_tokens, rows.shape
    ),
    parts=parts,
  )
  state = engine.start(slots, group, response_len, pad_id)
  sizes = _sizes(slots, parts)
  state = engine.serve(state, sizes[1])
  for size, smaller in zip(sizes[1:], sizes[2:]):
    state = engine.drain(engine.shrunk(state, size), smaller)
  return state.out, state.work


def _sizes(slots: int, parts: int) -> list[int]:
  """Returns the numbers of slots, which end with 0."""
  sizes = [slots]
  while len(sizes) <= _SHRINKS and sizes[-1] > _SHRINK * parts:
    sizes.append(-(-sizes[-1] // (_SHRINK * parts)) * parts)
  return [*sizes, 0]


def _queue(prompts: PromptBatch, prompt_of, count, group: int) -> _Queue:
  """Sorts prompts by length, and rows by the place of their prompt.

  Rows from `count` on, and prompts that only they have, come last. Prompts are
  padded on the left to whole chunks, and below to whole groups.
  """
  num_prompts, prompt_len = prompts.tokens.shape
  wanted = jnp.arange(len(prompt_of)) < count
  used = jnp.zeros(num_prompts, bool).at[prompt_of].max(wanted)
  lengths = jnp.where(used, prompts.mask.sum(axis=1), prompt_len + 1)
  order = jnp.argsort(lengths)
  place = jnp.argsort(order)[prompt_of]
  chunk = _chunk(prompt_len)
  padded = lambda x: jnp.pad(
    x[order], ((0, -num_prompts % group), (-prompt_len % chunk, 0))
  )
  return _Queue(
    rows=jnp.argsort(jnp.where(wanted, place, num_prompts)),
    place=place,
    tokens=padded(prompts.tokens),
    mask=padded(prompts.mask),
    count=jnp.asarray(count),
  )


def _chunk(prompt_len: int) -> int:
  """Returns the columns of one pass over prompts of `prompt_len` columns."""
  return min(max(_CHUNK, -(-prompt_len // _CHUNKS)), prompt_len)


@dataclasses.dataclass(frozen=True)
class _Engine:
  """The steps of `generate`. Each takes a state and returns the next one."""

  model: Model
  params: Params
  unembedding: jax.Array  # [D, V']
  sample: Callable  # (logits [S, V], rows [S], positions) -> tokens, log-probs
  is_end: Callable  # tokens -> bool
  rows: jax.Array  # [B] int32, global row numbers
  queue: _Queue
  limits: jax.Array  # [B] int32, tokens of a response, at most
  parts: int  # of the mesh, over which slots are divided

  def start(
    self, slots: int, group: int, response_len: int, pad_id: int
  ) -> _State:
    """Returns a state in which no row has begun."""
    prompt_len = self.queue.tokens.shape[1]
    zeros = lambda *shape: jnp.zeros(shape, jnp.int32)
    return _State(
      staged=_Staged(
        base=zeros() - group,
        cache=self._shared(self.model.init_cache(group, prompt_len)),
        logits=jnp.zeros((group, self.unembedding.shape[1])),
      ),
      slots=_Slots(
        cache=self.model.init_cache(slots, prompt_len + response_len),
        row=zeros(slots) - 1,
        token=zeros(slots),
        drawn=zeros(slots),
        length=zeros(slots),
      ),
      next=zeros(),
      step=zeros(),
      out=rollout.no_responses(len(self.rows), response_len, pad_id),
      work=Computed(prompt=zeros(), decode=zeros()),
    )

  def serve(self, state: _State, smaller: int) -> _State:
    """Samples until no row waits and the rest fits into `smaller` slots."""
    waits = lambda state: state.next < self.queue.count
    ready = lambda state: (
      waits(state)
      & (self._next_place(state) < state.staged.base + len(state.staged.logits))
    )
    free = lambda state: (state.slots.row < 0).any()

    def turn(state):
      state = jax.lax.while_loop(
        lambda state: waits(state) & ~ready(state), self.stage, state
      )
      state = jax.lax.while_loop(
        lambda state: ready(state) & free(state), self.fill, state
      )
      return jax.lax.while_loop(
        lambda state: jnp.where(
          waits(state), ~free(state), self._busy(state, smaller)
        ),
        self.decode,
        state,
      )

    return jax.lax.while_loop(
      lambda state: waits(state) | self._busy(state, smaller), turn, state
    )

  def drain(self, state: _State, smaller: int) -> _State:
    """Decodes until the live slots fit into `smaller` slots."""
    return jax.lax.while_loop(
      lambda state: self._busy(state, smaller), self.decode, state
    )

  def _busy(self, state: _State, slots: int) -> jax.Array:
    """Whether a part of the mesh has more live slots than its share."""
    live = (state.slots.row >= 0).reshape(self.parts, -1).sum(axis=1)
    return live.max() > slots // self.parts

  def _next_place(self, state: _State) -> jax.Array:
    return self.queue.place[self.queue.rows[state.next]]

  def stage(self, state: _State) -> _State:
    """Passes the next group of prompts through the model."""
    group, prompt_len = state.staged.cache.segment_ids.shape
    base = state.staged.base + group
    part = lambda x: jax.lax.dynamic_slice_in_dim(x, base, group)
    tokens, segments = part(self.queue.tokens), part(self.queue.mask)
    segments = segments.astype(jnp.int32)
    positions = jnp.maximum(jnp.cumsum(segments, axis=1) - 1, 0)
    chunk = _chunk(prompt_len)
    empty = jnp.zeros_like(segments)
    cache = dataclasses.replace(state.staged.cache, segment_ids=empty)
    hidden = jnp.zeros(
      (group, chunk, len(self.unembedding)), self.unembedding.dtype
    )

    def one(i, carry):
      cut = lambda x: jax.lax.dynamic_slice_in_dim(x, i * chunk, chunk, axis=1)
      cache = dataclasses.replace(carry[1], index=i * chunk)
      return self.model.apply(
        self.params, cut(tokens), cut(positions), cut(segments), cache
      )

    first = (prompt_len - segments.sum(axis=1).max()) // chunk
    hidden, cache = jax.lax.fori_loop(
      first, prompt_len // chunk, one, (hidden, cache)
    )
    columns = group * (prompt_len - first * chunk)
    return dataclasses.replace(
      state,
      staged=_Staged(
        base=base, cache=self._shared(cache), logits=self._logits(hidden)
      ),
      work=dataclasses.replace(state.work, prompt=state.work.prompt + columns),
    )

  def fill(self, state: _State) -> _State:
    """Gives the first free slot the next waiting row, and its first token."""
    slots, staged = state.slots, state.staged
    slot, row = jnp.argmax(slots.row < 0), self.queue.rows[state.next]
    place = self._next_place(state) - staged.base
    one = lambda x: jax.lax.dynamic_slice_in_dim(x, place, 1)
    token, logprob = self.sample(one(staged.logits), self.rows[row][None], 0)
    ended = self.is_end(token[0]) | (self.limits[row] <= 1)
    put = lambda x, value: x.at[slot].set(value)
    slots = _Slots(
      cache=caches.copy_row(slots.cache, slot, staged.cache, place, self.parts),
      row=put(slots.row, jnp.where(ended, -1, row)),
      token=put(slots.token, token[0]),
      drawn=put(slots.drawn, 1),
      length=put(slots.length, one(staged.cache.segment_ids).sum()),
    )
    return dataclasses.replace(
      state,
      slots=slots,
      next=state.next + 1,
      out=_written(state.out, row[None], jnp.zeros(1, int), token, logprob),
    )

  def decode(self, state: _State) -> _State:
    """Samples the next token of each live slot."""
    slots = state.slots
    live = slots.row >= 0
    prompt_len = self.queue.tokens.shape[1]
    ring = slots.cache.segment_ids.shape[1] - prompt_len
    hidden, cache = self.model.apply(
      self.params,
      slots.token[:, None],
      (slots.length + slots.drawn - 1)[:, None],
      live[:, None].astype(jnp.int32),
      dataclasses.replace(slots.cache, index=prompt_len + state.step % ring),
    )
    token, logprob = self._whole(
      self.sample(self._logits(hidden), self.rows[slots.row], slots.drawn)
    )
    ended = self.is_end(token) | (slots.drawn + 1 >= self.limits[slots.row])
    work = state.work
    return dataclasses.replace(
      state,
      slots=dataclasses.replace(
        slots,
        cache=cast(Cache, cache),
        row=jnp.where(ended, -1, slots.row),
        token=token,
        drawn=slots.drawn + 1,
      ),
      step=state.step + 1,
      out=_written(state.out, slots.row, slots.drawn, token, logprob),
      work=dataclasses.replace(work, decode=work.decode + len(live)),
    )

  def shrunk(self, state: _State, size: int) -> _State:
    """Returns the state with `size` slots, among them all live ones.

    Slots stay on their part of the mesh.
    """
    slots = state.slots
    free = (slots.row < 0).reshape(self.parts, -1)
    kept = jnp.argsort(free, axis=1)[:, : size // self.parts]
    pick = lambda x, axis=0: caches.take(x, kept, axis)
    slots = _Slots(
      cache=caches.map_rows(pick, slots.cache),
      row=pick(slots.row),
      token=pick(slots.token),
      drawn=pick(slots.drawn),
      length=pick(slots.length),
    )
    return dataclasses.replace(state, slots=slots)

  def _logits(self, hidden) -> jax.Array:
    return rollout.last_logits(self.model, hidden, self.unembedding)

  def _shared(self, cache: Cache) -> Cache:
    return caches.shared(cache, self.model.module.rules)

  def _whole(self, tree):
    return sharding.whole(tree, self.model.module.rules)


def _written(out: rollout.Responses, row, column, token, logprob):
  """Returns responses with one more token in some rows; row -1 writes none."""
  where = jnp.where(row < 0, len(out.tokens), row), column
  put = lambda x, value: x.at[where].set(value, mode='drop')
  return rollout.Responses(
    tokens=put(out.tokens, token),
    logprobs=put(out.logprobs, logprob),
    mask=put(out.mask, True),
  )
