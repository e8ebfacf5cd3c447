"""Adam with the schedules of the paper, and the sharding of its state."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from instructrl.runtime import sharding

SCHEDULES = ('cosine', 'constant')


def make_schedule(
  *,
  peak_lr: float,
  num_steps: int,
  kind: str = 'cosine',
  warmup_steps: int = 0,
  warmup_from: float = 0.0,
  final_fraction: float = 0.1,
) -> optax.Schedule:
  """Returns the learning rate as a function of the optimizer step.

  Args:
    peak_lr: the highest rate.
    num_steps: the number of optimizer steps of the whole run.
    kind: 'cosine' decays to `final_fraction` of the peak at the end (Ouyang et
      al. 2022, C.1 and C.3); 'constant' keeps the peak (C.4).
    warmup_steps: optimizer steps of linear warmup; 0 = none. PPO's warmup of
      ten iterations is counted in optimizer steps too.
    warmup_from: the first rate, as a fraction of the peak.
    final_fraction: the last rate, as a fraction of the peak.
  """
  if kind not in SCHEDULES:
    raise ValueError(
      f'optimizer.schedule must be one of {", ".join(SCHEDULES)}; got {kind!r}'
    )
  if warmup_steps >= num_steps > 0 and kind == 'cosine':
    raise ValueError(
      f'optimizer.warmup_steps={warmup_steps} leaves nothing of the '
      f'{num_steps} steps'
    )
  if kind == 'cosine':
    main = optax.cosine_decay_schedule(
      peak_lr, max(num_steps - warmup_steps, 1), final_fraction
    )
  else:
    main = optax.constant_schedule(peak_lr)
  if not warmup_steps:
    return main
  warmup = optax.linear_schedule(peak_lr * warmup_from, peak_lr, warmup_steps)
  return optax.join_schedules([warmup, main], [warmup_steps])


def make_optimizer(
  schedule: optax.Schedule,
  *,
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float = 0.0,
  max_grad_norm: float = 0.0,
  frozen=None,
) -> optax.GradientTransformation:
  """Returns Adam(W), preceded by clipping if `max_grad_norm` is positive.

  Args:
    schedule: the learning rate.
    b1: Adam's decay of the first moment.
    b2: Adam's decay of the second moment.
    eps: Adam's epsilon.
    weight_decay: decoupled weight decay; the learning rate multiplies it.
    max_grad_norm: clips the global norm of the gradient; 0 = no clipping.
    frozen: pytree like the parameters; each int is the number of leading rows
      that never change. Their gradients are 0, but weight decay would move
      them.
  """
  parts = []
  if max_grad_norm:
    parts.append(optax.clip_by_global_norm(max_grad_norm))
  parts.append(
    optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
  )
  if frozen is not None:
    parts.append(
      optax.stateless(
        lambda updates, _: jax.tree.map(
          lambda u, rows: u.at[:rows].set(0) if rows else u, updates, frozen
        )
      )
    )
  return optax.chain(*parts)


def state_shardings(
  tx: optax.GradientTransformation, params_shapes, params_shardings, mesh: Mesh
):
  """Returns the shardings of `tx.init(params)`.

  Moments are sharded like the parameters; counts are replicated. Without these
  shardings a jitted `tx.init` replicates the moments.
  """
  state = jax.eval_shape(tx.init, params_shapes)
  return optax.tree_map_params(
    tx,
    lambda _, s: s,
    state,
    params_shardings,
    transform_non_params=lambda _: sharding.replicated(mesh),
  )


def apply(tx: optax.GradientTransformation, grads, opt_state, params):
  """Takes one step; returns (params, opt_state, global gradient norm)."""
  updates, opt_state = tx.update(grads, opt_state, params)
  return (
    optax.apply_updates(params, updates),
    opt_state,
    optax.tree.norm(grads),
  )


def ema_update(ema, params, decay: float):
  """Returns decay * ema + (1 - decay) * params, once per optimizer step.

  If the average is in host memory, only one of its arrays at a time is copied
  to the devices.
  """
  leaves, tree = jax.tree.flatten(ema)
  out = []
  for e, p in zip(leaves, tree.flatten_up_to(params)):
    place = jax.typeof(e).memory_space
    if out and place == jax.memory.Space.Host:
      e, out[-1] = jax.lax.optimization_barrier((e, out[-1]))
    new = sharding.to_device(e) * decay + p.astype(e.dtype) * (1 - decay)
    out.append(jax.device_put(new, place))
  return tree.unflatten(out)


def accumulate(grad_fn, params, microbatches, used: jax.Array | None = None):
  """Sums `grad_fn(params, microbatch)` over the leading axis of microbatches.

  Each call divides by the count of the whole batch (see `masked.masked_mean`),
  so the sum is the gradient of the whole batch, up to rounding.

  Args:
    grad_fn: (params, microbatch) -> (grads, metrics), both summable trees.
    params: the parameters.
    microbatches: tree of [M, b, ...]; M = 1 needs no loop.
    used: [] int32, how many microbatches count, from the first; all by default.

  Returns:
    (grads, metrics), summed.
  """
  leaves = jax.tree.leaves(microbatches)
  if leaves[0].shape[0] == 1:
    return grad_fn(params, jax.tree.map(lambda x: x[0], microbatches))
  first = jax.tree.map(lambda x: x[0], microbatches)
  shapes = jax.eval_shape(grad_fn, params, first)
  start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def body(i, total):
    microbatch = jax.tree.map(lambda x: jnp.asarray(x)[i], microbatches)
    return jax.tree.map(jnp.add, total, grad_fn(params, microbatch))

  stop = leaves[0].shape[0] if used is None else used
  return jax.lax.fori_loop(0, stop, body, start)


def split_microbatches(batch, size: int):
  """Reshapes each leaf [B, ...] to [B / size, size, ...]; size 0 means B.

  Microbatch i takes the rows i, i + B / size, ...: with a sharded batch axis
  each microbatch has rows on every device.
  """

  def split(x):
    rows = size or x.shape[0]
    if x.shape[0] % rows:
      raise ValueError(
        f'microbatch_size={rows} does not divide the batch of {x.shape[0]}'
      )
    parts = x.shape[0] // rows
    return x.reshape(rows, parts, *x.shape[1:]).swapaxes(0, 1)

  return jax.tree.map(split, batch)
