"""Writes the report of a study from the files in its folder.

  python -m instructrl.report WORKDIR

writes `WORKDIR/report/results.json` (every figure, for machines) and
`WORKDIR/report/index.html` (self-contained, for people). It can be made again
at any time; it reads

  study.json                 config, seeds, versions, stages
  STAGE/DONE                 {'seconds': ..., 'result': {...}} of every stage
  STAGE/metrics.jsonl        of the stages that train
  evaluation/results.json    figures of `evaluators.suite.evaluate_policies`
  evaluation/samples.jsonl   what they were computed from
"""

import argparse
import sys

from instructrl.reports import report


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog='python -m instructrl.report', description=__doc__.split('\n')[0]
  )
  parser.add_argument('workdir', help='folder of a finished study')
  args = parser.parse_args(argv)
  try:
    print(report.make_report(args.workdir))
  except (ValueError, OSError) as error:
    print(f'report: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
