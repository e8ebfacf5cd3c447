// Autosave, keyboard, drag and clock. The page works without this script too.
'use strict';

const form = document.getElementById('page');

function autosave() {
  const state = document.getElementById('state');
  const undo = form.querySelector('[value=undo]');
  const queue = []; // drafts to send, oldest first: each can be undone
  let timer = 0; // of a text that is being written
  let sending = null;
  const headers = {'Content-Type': 'application/x-www-form-urlencoded'};

  function keep() {
    clearTimeout(timer);
    timer = 0;
    queue.push(new URLSearchParams(new FormData(form)));
    sending ??= send().finally(() => { sending = null; });
  }

  async function send() {
    let refused = '';
    while (queue.length) {
      try {
        const body = queue[0].toString();
        // A browser sends less than 64 KiB while it leaves the page.
        const keepalive = body.length < 60000;
        const response = await fetch(form.dataset.save, {
          method: 'POST', headers, keepalive, body,
        });
        if (response.ok) {
          undo.disabled = false;
        } else {
          const reason = await reasonOf(response);
          if (response.status === 429 || response.status >= 500) throw new Error(reason);
          if (queue.length === 1) refused = reason; // a later draft replaces it
        }
        queue.shift();
      } catch (error) {
        state.textContent = `Not saved yet: ${error.message}`;
        await new Promise((resume) => setTimeout(resume, 2000));
      }
    }
    state.textContent = refused ? `Not saved: ${refused}` : 'Everything is saved';
  }

  async function reasonOf(response) {
    try {
      return (await response.json()).error;
    } catch {
      return `the server answers ${response.status}`; // of a proxy, for instance
    }
  }

  function changed(event) {
    if (['reason', 'skip_note'].includes(event.target.id)) return;
    state.textContent = 'Saving…';
    if (event.type === 'input' && event.target.matches('textarea')) {
      clearTimeout(timer);
      timer = setTimeout(keep, 700);
    } else if (event.type === 'change') {
      keep();
    }
  }

  form.addEventListener('input', changed);
  form.addEventListener('change', changed);
  addEventListener('pagehide', () => timer && keep());
  form.addEventListener('submit', async (event) => {
    if (timer) keep();
    if (!sending) return;
    event.preventDefault(); // the drafts first, so that Undo and Submit see them
    const button = event.submitter;
    await sending;
    form.requestSubmit(button);
  });
}

function ranking() {
  const cards = [...form.querySelectorAll('.answer')];
  const letters = cards.map((card) => card.querySelector('.letter').textContent);
  const radios = (place) => [...form.querySelectorAll(`input[name="rank-${place}"]`)];
  let current = cards.findIndex((_, place) => !radios(place).some((r) => r.checked));
  let chosen = null;

  function mark(place, focus) {
    current = Math.max(0, Math.min(cards.length - 1, place));
    cards.forEach((card, i) => card.classList.toggle('current', i === current));
    if (focus) {
      cards[current].focus({preventScroll: true});
      cards[current].scrollIntoView({block: 'nearest'});
    }
  }

  function draw() {
    for (const row of form.querySelectorAll('[data-rank]')) {
      const chips = row.querySelector('.chips');
      letters.forEach((_, place) => {
        const checked = radios(place).find((r) => r.checked);
        if ((checked ? checked.value : '') === row.dataset.rank) {
          chips.append(form.querySelector(`.chip[data-place="${place}"]`));
        }
      });
    }
  }

  function rank(place, value) {
    for (const radio of radios(place)) radio.checked = radio.value === value;
    draw();
    form.dispatchEvent(new Event('change'));
  }

  function choose(chip) {
    chosen = chip;
    for (const other of form.querySelectorAll('.chip')) {
      other.setAttribute('aria-pressed', String(other === chip));
    }
    if (chip) mark(Number(chip.dataset.place), false);
  }

  form.addEventListener('change', (event) => {
    if (event.target.name?.startsWith('rank-')) {
      draw();
      mark(Number(event.target.name.slice(5)), false);
    }
  });
  cards.forEach((card, place) => card.addEventListener('focusin', () => mark(place, false)));
  for (const chip of form.querySelectorAll('.chip')) {
    chip.addEventListener('click', (event) => {
      event.stopPropagation();
      choose(chip === chosen ? null : chip);
    });
    chip.addEventListener('dragstart', (event) => {
      choose(chip);
      event.dataTransfer.setData('text/plain', chip.dataset.place);
    });
  }
  for (const row of form.querySelectorAll('[data-rank]')) {
    const put = () => {
      if (!chosen) return;
      rank(Number(chosen.dataset.place), row.dataset.rank);
      choose(null);
    };
    row.addEventListener('click', put);
    row.addEventListener('dragover', (event) => { event.preventDefault(); row.classList.add('over'); });
    row.addEventListener('dragleave', () => row.classList.remove('over'));
    row.addEventListener('drop', (event) => {
      event.preventDefault();
      row.classList.remove('over');
      put();
    });
  }
  mark(current, false);
  return (key) => {
    if (key === 'j' || key === 'k') mark(current + (key === 'j' ? 1 : -1), true);
    else if (key === '0') rank(current, '');
    else if (Number(key) <= cards.length) {
      rank(current, key);
      mark(current + 1, true);
    } else return false;
    return true;
  };
}

function rating() {
  return (key) => {
    const radio = form.querySelector(`input[name=overall_quality][value="${key}"]`);
    if (!radio) return false;
    radio.checked = true;
    radio.focus();
    form.dispatchEvent(new Event('change'));
    return true;
  };
}

function keyboard(task) {
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit(form.querySelector('[value=next]'));
      return;
    }
    if (event.key === 'Enter' && event.target.id === 'skip_note') {
      event.preventDefault(); // a form's first button is Submit
      form.requestSubmit(form.querySelector('[value=skip]'));
      return;
    }
    const typing = event.target.matches('textarea, select, input:not([type=radio], [type=checkbox])');
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === 'u') {
      event.preventDefault();
      const undo = form.querySelector('[value=undo]');
      if (!undo.disabled) form.requestSubmit(undo);
    } else if (/^[0-9jk]$/.test(event.key) && task && task(event.key)) {
      event.preventDefault();
    }
  });
}

function clock() {
  const shown = document.querySelector('.clock');
  const before = Number(shown.dataset.seconds);
  const start = Date.now();
  setInterval(() => {
    const seconds = before + Math.floor((Date.now() - start) / 1000);
    shown.textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
  }, 1000);
}

if (form) {
  autosave();
  clock();
  const tasks = {rank: ranking, rate: rating};
  keyboard(tasks[form.dataset.task]?.());
}
