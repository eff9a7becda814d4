'use strict';
// On top of forms that work without it: numbers that move, a question before what takes a member out, answers without a new page.
const path = location.pathname;
const outcome = document.getElementById('outcome');
const live = document.getElementById('live');
const dialog = document.getElementById('confirm');
const rows = new Map();
for (const row of document.querySelectorAll('tr[data-worker]')) rows.set(row.dataset.balancer + ' ' + row.dataset.worker, row);

function say(done, message) {
  outcome.className = done ? 'done' : 'refused';
  outcome.textContent = message;
}

function cell(row, key, text) {
  const at = row.querySelector('[data-key="' + key + '"]');
  if (at && at.textContent !== String(text)) at.textContent = text;
}

function show(row, worker) {
  for (const key of ['route', 'redirect', 'factor', 'lbset', 'status', 'elected', 'busy', 'lbstatus', 'to', 'from']) cell(row, key, worker[key]);
  const state = row.querySelector('.state');
  state.className = 'state ' + worker.class;
  if (state.textContent !== worker.words) state.textContent = worker.words;
  const forms = [...row.querySelectorAll('form[data-when]')];
  const held = forms.find((form) => form.contains(document.activeElement));
  for (const form of forms) form.hidden = (form.dataset.when === 'out') !== worker.out;
  // The keyboard must not fall out of the page when its button goes.
  if (held && held.hidden) forms.find((form) => !form.hidden).querySelector('button').focus();
  const factor = row.querySelector('input[name=w_lf]');
  if (factor && factor !== document.activeElement && factor.value === factor.defaultValue) factor.value = factor.defaultValue = worker.factor;
}

let asking = false;
async function refresh() {
  if (asking) return;
  asking = true;
  try {
    const answer = await fetch(path + '?json=1', { cache: 'no-store', redirect: 'error', signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error('status ' + answer.status);
    let seen = 0, strange = false;
    for (const balancer of (await answer.json()).balancers) {
      for (const worker of balancer.workers) {
        const row = rows.get(balancer.name + ' ' + worker.url);
        if (row) { seen += 1; show(row, worker); } else strange = true;
      }
    }
    const other = strange || seen !== rows.size;
    live.textContent = other ? 'Members were added or removed: reload this page to see them.' : 'Live. Last answer ' + new Date().toLocaleTimeString() + '.';
  } catch (error) {
    live.textContent = 'No answer (' + error.message + '): the numbers are old. Trying again.';
  } finally {
    asking = false;
  }
}

function question(text, button) {
  return new Promise((resolve) => {
    document.getElementById('confirm-text').textContent = text;
    document.getElementById('confirm-yes').textContent = button;
    dialog.returnValue = 'no';
    // The event of the question before may come late, when this one is on already.
    dialog.onclose = () => { if (!dialog.open) resolve(dialog.returnValue === 'yes'); };
    dialog.showModal();
  });
}

// Values are decoded twice; what the page itself put into hidden fields is prepared for that.
function encoded(form) {
  const pairs = [];
  for (const field of form.elements) {
    if (!field.name) continue;
    const value = field.type === 'hidden' ? field.value : field.value.replaceAll('%', '%25');
    pairs.push(encodeURIComponent(field.name) + '=' + encodeURIComponent(value));
  }
  return pairs.join('&') + '&json=1';
}

document.addEventListener('submit', async (event) => {
  const form = event.target;
  if (!form.dataset.quick) return;
  event.preventDefault();
  if (form.dataset.confirm && !(await question(form.dataset.confirm, form.dataset.button))) return;
  try {
    const answer = await fetch(path, { method: 'POST', body: encoded(form), headers: { 'Content-Type': 'application/x-www-form-urlencoded' }, cache: 'no-store', redirect: 'error' });
    const said = await answer.json();
    if (said.done && form.dataset.quick === 'reload') {
      sessionStorage.setItem('outcome', said.message);
      location.replace(path);
      return;
    }
    say(said.done, said.message);
    const factor = form.querySelector('input[name=w_lf]');
    if (said.done && factor) factor.defaultValue = factor.value;
  } catch (error) {
    say(false, 'No answer (' + error.message + '): look whether it was done.');
  }
  refresh();
});

const kept = sessionStorage.getItem('outcome');
if (kept) { sessionStorage.removeItem('outcome'); say(true, kept); }
setInterval(() => { if (!document.hidden) refresh(); }, 2000);
document.addEventListener('visibilitychange', () => { if (!document.hidden) refresh(); });
refresh();
