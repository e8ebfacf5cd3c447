"""Adam, the schedules, the moving average and gradient accumulation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructrl.runtime import optimizer
from instructrl.runtime import sharding

PARAMS = {'w': jnp.float32([[1, -2], [3, 0.5]]), 'b': jnp.float32([0.1, -0.2])}


def rates(steps, **kwargs):
  schedule = optimizer.make_schedule(**kwargs)
  return [float(schedule(step)) for step in steps]


# --- Schedules ---------------------------------------------------------------


def test_cosine_ends_at_a_tenth_of_the_peak():
  got = rates([0, 50, 100, 150], peak_lr=2.0, num_steps=100)
  np.testing.assert_allclose(got, [2.0, 1.1, 0.2, 0.2], rtol=1e-6)


def test_cosine_after_a_warmup():
  got = rates(
    [0, 5, 10, 60, 110],
    peak_lr=1.0,
    num_steps=110,
    warmup_steps=10,
    final_fraction=0.0,
  )
  np.testing.assert_allclose(got, [0, 0.5, 1, 0.5, 0], atol=1e-6)


def test_ppo_warms_up_from_a_tenth_and_then_stays():
  got = rates(
    [0, 5, 10, 11, 1000],
    peak_lr=1.0,
    num_steps=1000,
    kind='constant',
    warmup_steps=10,
    warmup_from=0.1,
  )
  np.testing.assert_allclose(got, [0.1, 0.55, 1, 1, 1], rtol=1e-6)


def test_a_constant_without_warmup():
  assert rates([0, 7], peak_lr=0.5, num_steps=1, kind='constant') == [0.5, 0.5]


@pytest.mark.parametrize(
  'kwargs, message',
  [
    (dict(kind='linear'), "schedule must be one of .*got 'linear'"),
    (dict(warmup_steps=10), 'warmup_steps=10 leaves nothing of the 10'),
  ],
)
def test_schedules_that_make_no_sense(kwargs, message):
  with pytest.raises(ValueError, match=message):
    optimizer.make_schedule(peak_lr=1.0, num_steps=10, **kwargs)


# --- Adam --------------------------------------------------------------------


def adam_by_hand(params, gradients, lr, b1, b2, eps, max_norm=0.0, decay=0.0):
  """Kingma & Ba 2015, algorithm 1, in float64, after clipping."""
  m = {k: 0.0 for k in params}
  v = {k: 0.0 for k in params}
  params = {k: np.asarray(x, np.float64) for k, x in params.items()}
  for t, grads in enumerate(gradients, 1):
    total = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in grads.values()))
    shrink = min(1, max_norm / total) if max_norm else 1
    for k in params:
      g = np.asarray(grads[k], np.float64) * shrink
      m[k] = b1 * m[k] + (1 - b1) * g
      v[k] = b2 * v[k] + (1 - b2) * g * g
      step = m[k] / (1 - b1**t) / (np.sqrt(v[k] / (1 - b2**t)) + eps)
      params[k] = params[k] - lr(t - 1) * (step + decay * params[k])
  return params


@pytest.mark.parametrize('max_norm', [0.0, 1.0, 1e6])
@pytest.mark.parametrize('decay', [0.0, 0.1])
def test_adam_by_hand(max_norm, decay):
  rng = np.random.default_rng(0)
  gradients = [
    {k: np.float32(rng.normal(size=p.shape)) for k, p in PARAMS.items()}
    for _ in range(4)
  ]
  schedule = optimizer.make_schedule(
    peak_lr=0.1, num_steps=4, warmup_steps=2, warmup_from=0.5
  )
  tx = optimizer.make_optimizer(
    schedule,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=decay,
    max_grad_norm=max_norm,
  )
  params, state = PARAMS, tx.init(PARAMS)
  for grads in gradients:
    params, state, norm = optimizer.apply(tx, grads, state, params)
    # The norm is that of the gradient, before it is clipped.
    np.testing.assert_allclose(norm, optax.tree.norm(grads), rtol=1e-6)
  expected = adam_by_hand(
    PARAMS, gradients, schedule, 0.9, 0.95, 1e-8, max_norm, decay
  )
  for k, value in params.items():
    np.testing.assert_allclose(value, expected[k], atol=1e-5)


def test_the_state_is_sharded_like_the_parameters():
  mesh = sharding.make_mesh(dict(fsdp=8))
  shapes = {'w': jax.ShapeDtypeStruct((16, 4), jnp.float32)}
  split = jax.NamedSharding(mesh, jax.P('fsdp'))
  tx = optimizer.make_optimizer(
    optimizer.make_schedule(peak_lr=1.0, num_steps=9),
    b1=0.9,
    b2=0.9,
    eps=1e-8,
    max_grad_norm=1.0,
  )
  shardings = optimizer.state_shardings(tx, shapes, {'w': split}, mesh)
  state = jax.jit(tx.init, out_shardings=shardings)({'w': jnp.ones((16, 4))})
  leaves = jax.tree.leaves(state)
  assert sorted(leaf.shape for leaf in leaves) == [(), (), (16, 4), (16, 4)]
  for leaf in leaves:
    assert leaf.sharding.is_fully_replicated == (leaf.ndim == 0)


# --- Moving average ----------------------------------------------------------


def test_the_moving_average_has_its_closed_form():
  rng = np.random.default_rng(1)
  start, *later = rng.normal(size=(6, 3)).astype(np.float32)
  decay, ema = 0.8, {'w': jnp.asarray(start)}
  for value in later:
    ema = optimizer.ema_update(ema, {'w': jnp.asarray(value)}, decay)
  n = len(later)
  expected = decay**n * start + (1 - decay) * sum(
    decay ** (n - 1 - i) * value for i, value in enumerate(later)
  )
  np.testing.assert_allclose(ema['w'], expected, rtol=1e-5)


def test_the_moving_average_keeps_its_dtype():
  ema = optimizer.ema_update(
    {'w': jnp.zeros(2, jnp.float32)}, {'w': jnp.ones(2, jnp.bfloat16)}, 0.9
  )
  assert ema['w'].dtype == jnp.float32


def test_an_average_on_the_hosts_is_the_same_and_goes_back():
  """In a loop, as the updates of an iteration are."""
  mesh = sharding.make_mesh(dict(fsdp=8))
  split = jax.NamedSharding(mesh, jax.P('fsdp'))
  rng = np.random.default_rng(1)
  start, steps = (
    {name: rng.normal(size=shape).astype(np.float32) for name in 'abc'}
    for shape in ((16, 3), (4, 16, 3))
  )

  def averages(ema):
    @functools.partial(jax.jit, out_shardings=ema['a'].sharding)
    def run(ema, steps):
      return jax.lax.scan(
        lambda ema, step: (optimizer.ema_update(ema, step, 0.8), None),
        ema,
        steps,
      )[0]

    with jax.set_mesh(mesh):
      return run(ema, steps)

  there = averages(jax.device_put(start, split))
  waiting = averages(jax.device_put(start, sharding.on_host(mesh, split)))
  for name in start:
    assert there[name].sharding.memory_kind == 'device'
    assert waiting[name].sharding.memory_kind == sharding.HOST
    np.testing.assert_array_equal(waiting[name], there[name])
    assert np.abs(there[name] - start[name]).max() > 0.1


# --- Microbatches ------------------------------------------------------------


def test_rows_are_dealt_out_in_turn():
  batch = {'x': np.arange(6), 'y': np.arange(12).reshape(6, 2)}
  parts = optimizer.split_microbatches(batch, 2)
  np.testing.assert_array_equal(parts['x'], [[0, 3], [1, 4], [2, 5]])
  np.testing.assert_array_equal(parts['y'][:, :, 0], 2 * parts['x'])
  whole = optimizer.split_microbatches(batch, 0)
  np.testing.assert_array_equal(whole['x'], [np.arange(6)])


def test_a_microbatch_must_divide_the_batch():
  with pytest.raises(ValueError, match='=4 does not divide the batch of 6'):
    optimizer.split_microbatches({'x': np.arange(6)}, 4)


@pytest.mark.parametrize('size', [0, 1, 2, 3, 6])
def test_accumulation_sums_gradients_and_metrics(size):
  x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)

  def loss(w, part):
    loss = jnp.sum(jnp.tanh(part @ w) ** 2) / len(x)
    return loss, {'loss': loss, 'rows': jnp.float32(len(part))}

  w = jnp.float32([0.3, -1])
  grads, metrics = optimizer.accumulate(
    jax.grad(loss, has_aux=True), w, optimizer.split_microbatches(x, size)
  )
  expected, _ = jax.grad(loss, has_aux=True)(w, x)
  np.testing.assert_allclose(grads, expected, rtol=1e-5)
  np.testing.assert_allclose(metrics['loss'], loss(w, x)[0], rtol=1e-5)
  assert metrics['rows'] == 6


def test_only_used_microbatches_count():
  """The others may be anything, such as NaN."""
  x = jnp.float32([[1], [2], [jnp.nan]])
  times = lambda w, x: w * x.sum()
  run = jax.jit(functools.partial(optimizer.accumulate, times))
  assert run(jnp.float32(2), x, used=jnp.int32(2)) == 6
