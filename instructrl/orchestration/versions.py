"""The versions of the packages that a study or a sweep ran with."""

from collections.abc import Sequence
import importlib.metadata
import platform

PACKAGES = (
  'jax jaxlib flax optax orbax-checkpoint grain numpy sentencepiece '
  'tensorflow-datasets instructrl'
).split()


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
  """Returns {package: version}, and Python's version."""
  found = {'python': platform.python_version()}
  for name in packages:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = 'not installed'
  return found
