// The steering basket: slider and number move together, and the server hears of a strength once it is chosen.
const setOpen = (open) => {
  element.classList.toggle('cb-open', open);
  element.querySelector('[data-toggle]')?.setAttribute('aria-expanded', String(open));
};
element.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || !element.classList.contains('cb-open')) return;
  setOpen(false);
  element.querySelector('[data-toggle]').focus();
});

// The page ends above the basket, however tall it is, and what gets the focus is scrolled clear of it.
const tall = () => document.documentElement.style.setProperty('--cb-dock', `${document.getElementById('dock').offsetHeight}px`);
new ResizeObserver(tall).observe(document.getElementById('dock'));

// Each change is made to the basket that the one before has left: the next is sent once the last is answered.
const queue = [];
let busy = false;
const send = () => {
  busy = queue.length > 0;
  if (busy) trigger('input', queue.shift());
};
const ask = (act) => { queue.push(act); if (!busy) send(); };
window.cbBasket = (act) => { tell(); ask(act); }; // cards add neurons
window.cbAnswered = () => {
  send();
  if (busy) return;
  for (const [neuron, { isSent }] of pending) if (isSent) pending.delete(neuron);
  for (const row of element.querySelectorAll('.cb-row')) show(row);
};
window.cbSend = (request) => trigger('go', request); // what an address asks for

// What cannot be is said in the unit that is shown, and the field has what it had.
const refuse = (input) => {
  const row = input.closest('.cb-row'), { min, max, value } = input;
  element.querySelector('.cb-dock-said').textContent =
    `Neuron ${row.dataset.neuron} can be set to values from ${min} to ${max}${row.dataset.unit}, not to ${value || 'this'}.`;
  pending.delete(row.dataset.neuron);
  show(row);
};

// What each row's inputs hold until the server has answered it: answers to earlier acts stay out. A key that is
// held changes a slider more often than the server can answer, so the server hears where the slider comes to rest.
const REST = 150, pending = new Map();
let byKey = false, resting = null;
element.addEventListener('keydown', () => { byKey = true; });
element.addEventListener('pointerdown', () => { byKey = false; });
const tell = () => {
  clearTimeout(resting);
  for (const [neuron, { chosen, ...values }] of pending) {
    if (!chosen) continue;
    pending.set(neuron, { ...values, isSent: true });
    ask({ act: 'value', neuron, value: chosen });
  }
};
element.addEventListener('input', (event) => {
  const row = event.target.closest('.cb-row');
  if (!row) return;
  const { type, value } = event.target;
  pending.set(row.dataset.neuron, { range: value, number: type === 'range' ? Number(value).toFixed(2) : value });
  show(row);
});
element.addEventListener('change', (event) => {
  const row = event.target.closest('.cb-row');
  if (!row) return;
  const { type, value } = event.target, { neuron } = row.dataset;
  if (!value || !event.target.checkValidity()) return refuse(event.target);
  pending.set(neuron, { ...pending.get(neuron), chosen: value, isSent: false });
  clearTimeout(resting);
  if (type === 'range' && byKey) resting = setTimeout(tell, REST); else tell();
});
element.addEventListener('click', (event) => {
  if (event.target.closest('[data-toggle]')) return setOpen(!element.classList.contains('cb-open'));
  if (event.target.closest('[data-undo]')) window.cbPage.undoBasket();
});

// What the visitor typed stays in an input whatever its attribute says: new values are put in by hand.
const show = (row) => {
  const values = pending.get(row.dataset.neuron);
  for (const input of row.querySelectorAll('input')) {
    const value = values?.[input.type] ?? input.getAttribute('value');
    if (input.value !== value) input.value = value;
  }
};
let count = Number(element.querySelector('[data-count]')?.dataset.count || 0);
watch('value', () => {
  for (const row of element.querySelectorAll('.cb-row')) show(row);
  const now = Number(element.querySelector('[data-count]').dataset.count);
  const wide = window.matchMedia('(min-width: 721px)').matches; // on a narrow screen it would hide what is steered
  if (now > count && wide) setOpen(true); else setOpen(element.classList.contains('cb-open') && now > 0);
  if (count && !now && document.activeElement === document.body) element.querySelector('[data-toggle]').focus(); // its button is gone
  count = now;
  window.cbPage?.mark();
});
