"""Asks an exported policy in transformers, to check the export.

  pip install -e ".[hf]"
  python scripts/answer_with_transformers.py DIR [--prompts 6] [--max_tokens 64]

DIR is the folder of a study on real data (experiments/real.py). The prompts are
the first held-out prompts of its samples; responses are greedy. The script
prints the responses and writes them to DIR/export/answers.jsonl, which the
report shows when it is made again (`python -m instructrl.report DIR`).
"""

import argparse
import itertools
import json
import pathlib
import sys

from instructrl.runtime import files
from instructrl.runtime import typed
from instructrl.tokenizers import dialogue

try:
  import torch
  import transformers
except ImportError as error:
  sys.exit(f'error: {error}: pip install -e ".[hf]"')


def answer(
  folder: pathlib.Path, samples: list[dict], max_tokens: int
) -> list[dict]:
  """Returns greedy responses of an exported folder, made by transformers alone.

  Args:
    folder: the exported folder.
    samples: lines of samples.jsonl, with `prompt` and perhaps `turns`.
    max_tokens: most tokens of a response.

  Returns:
    [{'prompt', 'response', 'program'}].
  """
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
  ).eval()
  found = []
  for sample in samples:
    turns = sample.get('turns') or [sample['prompt']]
    ids = tokenizer.apply_chat_template(
      [
        {'role': dialogue.ROLES[i % 2], 'content': turn}
        for i, turn in enumerate(turns)
      ],
      add_generation_prompt=True,
      return_dict=False,
    )
    with torch.no_grad():
      out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids)),
        do_sample=False,
        max_new_tokens=max_tokens,
      )
    response = tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
    found.append(
      {
        'prompt': sample['prompt'],
        'response': response.strip(),
        'program': f'transformers {transformers.__version__}',
      }
    )
  return found


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('workdir', type=typed.path, help='folder of a study')
  parser.add_argument(
    '--prompts', type=int, default=6, help='number of prompts (default 6)'
  )
  parser.add_argument(
    '--max_tokens',
    type=int,
    default=64,
    help='most tokens of a response (default 64)',
  )
  args = parser.parse_args(argv)
  folder = args.workdir / 'export' / 'policy'
  samples = args.workdir / 'evaluation' / 'samples.jsonl'
  for path in (folder / 'config.json', samples):
    if not path.is_file():
      print(
        f'error: {path} does not exist: run the study of '
        'experiments/real.py to its end',
        file=sys.stderr,
      )
      return 1
  with open(samples, encoding='utf-8', newline='\n') as f:
    lines = list(itertools.islice(f, args.prompts))
  transformers.utils.logging.disable_progress_bar()
  found = answer(folder, list(map(json.loads, lines)), args.max_tokens)
  kept = args.workdir / 'export' / 'answers.jsonl'
  files.atomic_write(
    kept, ''.join(json.dumps(one, ensure_ascii=False) + '\n' for one in found)
  )
  for one in found:
    print(f'> {one["prompt"]}\n{one["response"]}\n')
  print(f'wrote {kept}; `python -m instructrl.report {args.workdir}` shows it')
  return 0


if __name__ == '__main__':
  sys.exit(main())
