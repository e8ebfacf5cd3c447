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
  """The learning rate at each optimizer step.

  Args:
    peak_lr: the highest rate.
    num_steps: optimizer steps of the whole run.
    kind: 'cosine' decays to `final_fraction` of the peak at the end (Ouyang
      et al. 2022, C.1 and C.3), 'constant' stays (C.4).
    warmup_steps: linear from `warmup_from` of the peak; 0 is none. PPO's ten
      iterations from a tenth are counted here in optimizer steps.
    warmup_from: fraction of the peak.
    final_fraction: fraction of the peak.
  """
  if kind not in SCHEDULES:
    raise ValueError(f'optimizer.schedule={kind!r} is none of {SCHEDULES}')
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
  """Adam(W), after clipping by global norm if `max_grad_norm` is positive.

  Args:
    schedule: the learning rate.
    b1: of Adam; b2 and eps likewise.
    b2: see b1.
    eps: see b1.
    weight_decay: times the learning rate, of the parameters.
    max_grad_norm: of all gradients together; 0 = any.
    frozen: a tree of ints as the parameters: so many first rows of each never
      move. Their gradients are 0, and weight decay would move them.
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
  """Shardings of `tx.init(params)`: moments as parameters, counts replicated.

  Without these a jitted `tx.init` leaves Adam's moments replicated.
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
  """One optimizer step: new parameters, new state, and the gradient's norm."""
  updates, opt_state = tx.update(grads, opt_state, params)
  return (
    optax.apply_updates(params, updates),
    opt_state,
    optax.tree.norm(grads),
  )


def ema_update(ema, params, decay: float):
  """ema <- decay * ema + (1 - decay) * params, once per optimizer step.

  Of an average that waits on the hosts, one array at a time is on the devices:
  the next comes when the last has gone back.
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


def accumulate(grad_fn, params, microbatches):
  """Sums `grad_fn(params, microbatch)` over the leading axis of microbatches.

  Each call divides by the whole batch's count (see `masked.masked_mean`), so
  the sum is the full batch's gradient to rounding.

  Args:
    grad_fn: (params, microbatch) -> (grads, metrics), both summable trees.
    params: what is differentiated.
    microbatches: tree of [M, b, ...]; M of 1 costs no loop.

  Returns:
    (grads, metrics), summed.
  """
  leaves = jax.tree.leaves(microbatches)
  if leaves[0].shape[0] == 1:
    return grad_fn(params, jax.tree.map(lambda x: x[0], microbatches))
  first = jax.tree.map(lambda x: x[0], microbatches)
  shapes = jax.eval_shape(grad_fn, params, first)
  start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def body(total, microbatch):
    return jax.tree.map(jnp.add, total, grad_fn(params, microbatch)), None

  total, _ = jax.lax.scan(body, start, microbatches)
  return total


def split_microbatches(batch, size: int):
  """[B, ...] -> [B / size, size, ...] for every leaf; size 0 keeps one.

  Rows are dealt out in turn, so that with a sharded batch axis each
  microbatch still has rows on every device.
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
