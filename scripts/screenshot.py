"""Takes a picture of a report's first screen, with Chromium.

  python scripts/screenshot.py runs/quickstart/report/index.html \
      docs/images/report.png [--width 1300] [--height 800]

The picture in README.md is made in this way. Chromium must be installed; on
Debian: `apt install chromium`.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

PROGRAMS = ('chromium', 'chromium-browser', 'google-chrome')


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('page', type=pathlib.Path, help='the HTML file')
  parser.add_argument('picture', type=pathlib.Path, help='the PNG to write')
  parser.add_argument('--width', type=int, default=1300, help='in pixels')
  parser.add_argument('--height', type=int, default=800, help='in pixels')
  args = parser.parse_args(argv)
  program = next(filter(None, map(shutil.which, PROGRAMS)), None)
  if program is None:
    print(f'error: none of {", ".join(PROGRAMS)} is installed', file=sys.stderr)
    return 1
  if not args.page.is_file():
    print(f'error: {args.page} does not exist', file=sys.stderr)
    return 1
  args.picture.parent.mkdir(parents=True, exist_ok=True)
  args.picture.unlink(missing_ok=True)
  with tempfile.TemporaryDirectory() as profile:
    done = subprocess.run(
      [
        program,
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--hide-scrollbars',
        f'--user-data-dir={profile}',
        f'--window-size={args.width},{args.height}',
        f'--screenshot={args.picture.absolute()}',
        args.page.absolute().as_uri(),
      ],
      capture_output=True,
      text=True,
      check=False,
    )
  if not args.picture.is_file():
    print(f'error: {program} wrote no picture: {done.stderr}', file=sys.stderr)
    return 1
  print(args.picture)
  return 0


if __name__ == '__main__':
  sys.exit(main())
