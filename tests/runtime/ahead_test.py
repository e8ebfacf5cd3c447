"""Functions that were compiled ahead are not compiled again."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from instructrl.runtime import ahead

compiled = []


def note(event, duration, **unused):
  del duration, unused
  if event.endswith('backend_compile_duration'):
    compiled.append(event)


@pytest.fixture
def mesh():
  mesh = jax.make_mesh((8,), ('data',))
  with jax.set_mesh(mesh):
    jax.monitoring.register_event_duration_secs_listener(note)
    yield mesh
    jax.monitoring.unregister_event_duration_listener(note)


def test_a_call_after_the_context_compiles_nothing(mesh):
  rows = NamedSharding(mesh, PartitionSpec('data'))
  x = jax.device_put(np.arange(16.0, dtype=np.float32), rows)
  fn = jax.jit(lambda x, n: jnp.tanh(x) * n, donate_argnums=0)
  arguments = (
    jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows),
    jax.ShapeDtypeStruct((), np.int32),
  )
  with ahead.compiling({'fn': (fn, arguments)}, mesh):
    pass
  assert len(compiled) == 1
  fn(x, np.int32(3))
  assert len(compiled) == 1


def test_an_error_of_a_compilation_is_raised(mesh):
  fn = jax.jit(lambda x: x @ x)
  wrong = (jax.ShapeDtypeStruct((2, 3), np.float32),)
  with pytest.raises(TypeError, match='dot_general'):
    with ahead.compiling({'fn': (fn, wrong)}, mesh):
      pass
