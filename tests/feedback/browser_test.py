"""The labeling page in Chromium: mouse, keyboard, reload, a killed server."""

import json
import shutil

import pytest

from tests.feedback import labeling

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
pytestmark = pytest.mark.skipif(
  CHROMIUM is None, reason='there is no Chromium: apt-get install chromium'
)
sync_api = pytest.importorskip('playwright.sync_api')


@pytest.fixture(scope='module')
def browser():
  with sync_api.sync_playwright() as started:
    opened = started.chromium.launch(
      executable_path=CHROMIUM, args=['--no-sandbox']
    )
    yield opened
    opened.close()


def joined(browser, address, folder, name, **size):
  """Returns a page of a new labeler; an error of the script fails the test."""
  token = labeling.open_desk(folder).invite(name)
  context = browser.new_context(
    viewport={'width': 1300, 'height': 800} | size, reduced_motion='reduce'
  )
  page = context.new_page()
  page.errors = []
  page.on('pageerror', lambda error: page.errors.append(str(error)))
  page.on(
    'console',
    lambda said: said.type == 'error' and page.errors.append(said.text),
  )
  page.goto(f'{address}/join/{token}')
  with page.expect_navigation():
    page.get_by_role('button', name='Start').click()
  return page


def saved(page):
  sync_api.expect(page.locator('#state')).to_have_text('Everything is saved')


def ranks_of(page):
  """Returns letter -> rank, as the board shows them."""
  rows = page.locator('.board [data-rank]').all()
  return {
    letter: row.get_attribute('data-rank')
    for row in rows
    for letter in row.locator('.chip').all_inner_texts()
  }


def newest(folder, name):
  """Returns the labels of a labeler, oldest first."""
  desk = labeling.open_desk(folder)
  (person,) = [p for p in desk.people.values() if p.name == name]
  return [work.label for work in person.items.values() if work.label]


def test_keyboard_mouse_reload_two_labelers_and_a_kill(browser, tmp_path):
  folder = labeling.make(tmp_path / 'p', labeling.rows(6))
  with labeling.server(folder) as (address, _, process):
    ada = joined(browser, address, folder, 'Ada')
    bob = joined(browser, address, folder, 'Bob', width=390)
    assert ada.url != bob.url  # each has a prompt of their own
    assert '<script>document' in ada.inner_text('main')  # text, not a script

    # By the keyboard alone, with a tie.
    for key in ('2', '1', '2'):
      ada.keyboard.press(key)
    assert ranks_of(ada) == {'A': '2', 'B': '1', 'C': '2'}
    saved(ada)
    ada.reload()
    assert ranks_of(ada) == {'A': '2', 'B': '1', 'C': '2'}
    with ada.expect_navigation():
      ada.keyboard.press('u')  # undo the last one
    sync_api.expect(ada.locator('.tray .chip')).to_have_count(1)
    ada.keyboard.press('3')
    ada.keyboard.press('Control+Enter')
    ada.wait_for_url('**/items/2/rank')
    (label,) = newest(folder, 'Ada')
    assert [label['ranks'][i] for i in label['order']] == [2, 1, 3]

    # By drag, by click on the board, and by click on a card.
    bob.locator('.chip', has_text='A').drag_to(
      bob.locator('.row[data-rank="1"]')
    )
    bob.locator('.chip', has_text='B').click()
    bob.get_by_label('Put the chosen answer on rank 1').click()
    bob.locator('#answer-2 .choice', has_text='3').click()
    assert ranks_of(bob) == {'A': '1', 'B': '1', 'C': '3'}
    saved(bob)

    process.kill()  # in the middle of Bob's prompt
    process.wait()
    bob.locator('#answer-2 .choice', has_text='2').click()
    sync_api.expect(bob.locator('#state')).to_contain_text('Not saved yet')
    port = address.rpartition(':')[2]
    with labeling.server(folder, '--port', port):
      saved(bob)  # the page tries again by itself
      bob.get_by_role('button', name='Submit').click()
      bob.wait_for_url('**/items/3/rank')
      (label,) = newest(folder, 'Bob')
      assert [label['ranks'][i] for i in label['order']] == [1, 1, 2]
      assert len(newest(folder, 'Ada')) == 1
    assert not ada.errors


def test_rate_and_demonstrate(browser, tmp_path):
  tasks = ('demonstrate', 'rate', 'rank')
  folder = labeling.make(tmp_path / 'p', labeling.rows(1, k=2), tasks=tasks)
  with labeling.server(folder) as (address, _, _process):
    page = joined(browser, address, folder, 'Ada', width=390)
    page.get_by_label('Your answer').fill('Cats and\ndogs')
    page.keyboard.press('Control+Enter')
    page.wait_for_url('**/rate/0')
    page.keyboard.press('6')
    page.get_by_label('Gives harmful advice').check()
    page.get_by_label('Notes').fill('12345')  # keys are text here
    page.get_by_role('button', name='Next').click()
    page.wait_for_url('**/rate/1')
    page.get_by_role('radio', name='3', exact=True).check()
    page.get_by_label('The prompt is unclear').check()
    page.get_by_role('button', name='Next').click()
    page.wait_for_url('**/rank')
    page.get_by_role('group', name='Rank of answer A').get_by_role(
      'radio', name='1'
    ).check()
    page.get_by_role('group', name='Rank of answer B').get_by_role(
      'radio', name='1'
    ).check()
    assert page.evaluate('document.body.scrollWidth') <= 390
    page.get_by_role('button', name='Submit').click()
    page.wait_for_url('**/done')
    (label,) = newest(folder, 'Ada')
    assert label['text'] == 'Cats and\ndogs' and label['ranks'] == [1, 1]
    assert label['marks'] == {'unclear': 1, 'sensitive': 0}
    first, second = (label['ratings'][i] for i in label['order'])
    assert (first['overall_quality'], second['overall_quality']) == (6, 3)
    assert first['harmful_advice'] == 1 and first['notes'] == '12345'
    assert not page.errors
    assert json.dumps(label)


def test_enter_in_the_note_of_a_skip_skips(browser, tmp_path):
  folder = labeling.make(tmp_path / 'p', labeling.rows(2))
  with labeling.server(folder) as (address, _, _process):
    page = joined(browser, address, folder, 'Ada')
    for key in '123':
      page.keyboard.press(key)
    page.get_by_text('Skip this prompt').click()
    page.get_by_label('Reason').select_option('unclear')
    page.get_by_label('Note (optional)').fill('why?')
    page.keyboard.press('Enter')
    page.wait_for_url('**/items/1/rank')
    assert not newest(folder, 'Ada') and not page.errors


def test_the_page_works_without_the_script(browser, tmp_path):
  folder = labeling.make(tmp_path / 'p', labeling.rows(1))
  token = labeling.open_desk(folder).invite('Ada')
  with labeling.server(folder) as (address, _, _process):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f'{address}/join/{token}')
    page.get_by_role('button', name='Start').click()
    for place, rank in enumerate('112'):
      page.locator(f'input[name=rank-{place}][value="{rank}"]').check()
    page.get_by_role('button', name='Submit').click()
    page.wait_for_url('**/done')
    (label,) = newest(folder, 'Ada')
    assert [label['ranks'][i] for i in label['order']] == [1, 1, 2]


def test_a_long_answer_is_saved_and_a_refused_draft_does_not_block(
  browser, tmp_path
):
  folder = labeling.make(tmp_path / 'p', tasks=('demonstrate',))
  with labeling.server(folder) as (address, _, _process):
    page = joined(browser, address, folder, 'Ada')
    box = page.get_by_label('Your answer')
    long = 'ह' * 8000  # 72,000 bytes: above what `keepalive` may have
    box.fill(long)
    saved(page)
    page.reload()
    assert box.input_value() == long
    box.evaluate('box => box.removeAttribute("maxlength")')
    box.fill('x' * 70_000)
    state = page.locator('#state')
    sync_api.expect(state).to_contain_text('Not saved: text has 70,000')
    box.fill('\nShort.')
    saved(page)
    page.reload()
    assert box.input_value() == '\nShort.'  # with the first newline
    page.get_by_role('button', name='Submit').click()
    page.wait_for_url('**/items/1/demonstrate')
    (label,) = newest(folder, 'Ada')
    assert label['text'] == '\nShort.'
