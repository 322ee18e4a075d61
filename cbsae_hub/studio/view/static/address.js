// The address follows the page and the page the address: one history, one way to undo, one way to go anywhere.
// `fields` are the parts of the address, `space` the page's address on the Hub, `tabs` the tabs by their names, and
// `values` what the components hold.
const SOON = 60, PATIENCE = 50, MAX_PICTURES = 8, SECRET = /~([\w-]{16,})$/, TOKEN = /~([a-z0-9]{4,20})$/;
const byKey = Object.fromEntries(fields.map((field) => [field.key, field]));
const spelled = (field, value) => {
  if (value === null || value === undefined) return '';
  if (typeof value === 'boolean') return value ? '1' : '0';
  return field.codes?.[value] ?? String(value);
};
const stateOf = (all) => Object.fromEntries(fields.map((field, i) => [field.key, spelled(field, all[i])]));
const publicName = (model) => model.replace(/~[\w-]+$/, '');
const differing = (a, b) => fields.map((field) => field.key).filter((key) => a[key] !== b[key]);
const usual = (field, state) => (field.like ? state[field.like] : field.usual);

// --- What is the visitor's own has a secret name on the server. The address has a token for it, and only this
// browser knows the two together, and has the picture itself.
const tokens = new Map(); // secret: token
const stored = new Set(); // tokens of what a reload will find in this browser
const drawer = (mode, act) => new Promise((resolve) => {
  try {
    const opening = indexedDB.open('cbsae_hub', 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore('mine');
    opening.onerror = () => resolve(null);
    opening.onsuccess = () => {
      const work = opening.result.transaction('mine', mode), request = act(work.objectStore('mine'));
      work.oncomplete = () => { opening.result.close(); resolve(request.result ?? null); };
      work.onabort = () => resolve(null);
    };
  } catch { resolve(null); } // a browser that keeps nothing
});
const keep = async (token, thing) => {
  if (await drawer('readwrite', (store) => store.put(thing, token)) === null) page.say('Your browser keeps nothing: what you upload or train is gone when you reload.');
  const all = await drawer('readonly', (store) => store.getAllKeys()) ?? [];
  const pictures = all.filter((key) => !key.startsWith('z')).sort();
  for (const old of pictures.slice(0, -MAX_PICTURES)) await drawer('readwrite', (store) => store.delete(old));
  stored.add(token);
};
const tokenOf = (secret, kind = '') => {
  if (!tokens.has(secret)) tokens.set(secret, kind + Date.now().toString(36) + Math.random().toString(36).slice(2, 6));
  return tokens.get(secret);
};
const publicText = (key, text) => {
  const secret = ['m', 'pic', 'seen'].includes(key) && SECRET.exec(text)?.[1];
  if (!secret) return text;
  if (key === 'm' && !tokens.has(secret)) keep(tokenOf(secret, 'z'), { name: text });
  return text.replace(SECRET, `~${tokenOf(secret)}`);
};

// --- The address of a state, and the state that an address asks for, in the same words.
const encoded = (text) => encodeURIComponent(text).replace(/%20/g, '+').replace(/%(3A|2C|7E|2F|3B)/g, decodeURIComponent);
const publicState = (state) => Object.fromEntries(fields.map(({ key }) => [key, publicText(key, state[key])]));
const queryOf = (state) => {
  const theirs = [...new URLSearchParams(location.search)].filter(([key]) => key.startsWith('__'));
  const ours = fields.filter((field) => state[field.key] !== usual(field, state) || (field.key === 'tab' && state.q)).map(({ key }) => [key, state[key]]);
  return [...theirs, ...ours].map(([key, value]) => `${encoded(key)}=${encoded(value)}`).join('&');
};
const stateOfQuery = (search) => {
  const query = new URLSearchParams(search), state = {};
  for (const field of fields) state[field.key] = query.get(field.key) ?? usual(field, state);
  // Shorter links, which people write and have written.
  if (!query.has('tab') && query.has('q')) state.tab = 'find';
  if (state.tab === 'inspect' && !query.has('seen') && query.has('pic')) state.seen = state.pic;
  return state;
};

const write = (how, state) => {
  const query = queryOf(publicState(state));
  if (`?${query}` === location.search || (!query && !location.search)) return;
  history[how](null, '', location.pathname + (query && `?${query}`));
  page.typing = null;
  if (space && window.parent !== window) window.parent.postMessage({ queryString: query, hash: '' }, 'https://huggingface.co');
};

const page = window.cbPage = { state: stateOf(values), busy: false, search: '', typing: null, waiting: [], undo: [], note: '', opened: null };

page.say = (text) => {
  const line = document.querySelector('#dock .cb-dock-said');
  if (line) line.textContent = text;
};

// Results that were made with other settings than those on the page are marked.
page.mark = () => {
  for (const result of document.querySelectorAll('[data-of]')) {
    const of = JSON.parse(result.dataset.of);
    result.classList.toggle('cb-stale', Object.entries(of).some(([key, text]) => page.state[key] !== text));
  }
  const undo = document.querySelector('#dock [data-undo]');
  if (undo) undo.disabled = !page.undo.length;
};

const remember = (before, after) => {
  const keys = differing(before, after);
  if (!keys.includes('b')) return;
  page.undo.push(Object.fromEntries(keys.map((key) => [key, before[key]])));
  if (page.undo.length > 50) page.undo.shift();
};

// --- The page has changed: the address follows.
let timer = null, latest = null;
const follow = () => {
  clearTimeout(timer);
  if (!latest) return;
  const before = page.state;
  page.state = stateOf(latest);
  latest = null;
  page.mark();
  if (page.busy) return; // once the page is where the address wants it, page.arrived follows
  const keys = differing(before, page.state);
  if (!keys.length) return;
  remember(before, page.state);
  page.mark();
  const typing = keys.length === 1 && byKey[keys[0]].typed ? keys[0] : null;
  const goesOn = page.typing && keys.every((key) => key === page.typing || byKey[key].of === page.typing);
  write(goesOn ? 'replaceState' : 'pushState', page.state);
  page.typing = typing;
};
const isStored = (state) => ['m', 'pic', 'seen'].every((key) => {
  publicText(key, state[key]); // which stores the name of a model
  const secret = SECRET.exec(state[key])?.[1];
  return !secret || stored.has(tokens.get(secret));
});
// What is the visitor's own is named by the address once a reload would find it.
const followWhenStored = (patience) => {
  if (latest && patience && !isStored(stateOf(latest))) timer = setTimeout(followWhenStored, SOON, patience - 1);
  else follow();
};
page.changed = (all) => {
  clearTimeout(timer);
  latest = all;
  timer = setTimeout(followWhenStored, SOON, PATIENCE);
};

// --- The address has changed: the page follows. Only what differs is asked for, and only that is touched.
const restore = async () => {
  if (page.busy) return; // page.arrived looks again
  const target = stateOfQuery(location.search), now = publicState(page.state);
  const changed = differing(target, now);
  page.search = location.search;
  if (!changed.length) {
    write('replaceState', page.state);
    page.waiting.shift()?.();
    return;
  }
  page.busy = true;
  const mine = {};
  for (const key of ['m', 'pic', 'seen']) {
    const token = TOKEN.exec(target[key])?.[1];
    if (token) mine[token] = await drawer('readonly', (store) => store.get(token));
  }
  const says = Object.fromEntries(fields.filter((field) => target[field.key] !== field.usual).map(({ key }) => [key, target[key]]));
  page.target = target;
  window.cbSend({ says, changed, mine });
};
page.arrived = (all) => {
  clearTimeout(timer);
  latest = null;
  page.busy = false;
  page.state = stateOf(all);
  for (const key of ['m', 'pic', 'seen']) { // brought back, it has another name
    const token = TOKEN.exec(page.target?.[key] ?? '')?.[1], secret = SECRET.exec(page.state[key])?.[1];
    if (!token || !secret || tokens.get(secret) === token) continue;
    tokens.set(secret, token);
    drawer('readonly', (store) => store.get(token)).then((thing) => keep(token, { ...thing, name: page.state[key] }));
  }
  page.mark();
  if (location.search !== page.search) return restore();
  // Who has opened a tab meanwhile stays there.
  const late = page.opened;
  page.opened = null;
  if (late && tabs[late] !== page.state.tab) setTimeout(() => tabNamed(late)?.click());
  write('replaceState', page.state);
  page.waiting.shift()?.();
  if (page.note) setTimeout(() => { page.say(page.note); page.note = ''; }, SOON);
};
window.addEventListener('popstate', restore);
const tabNamed = (name) => [...document.querySelectorAll('#tabs [role=tab]')].find((tab) => tab.textContent.trim() === name);
document.addEventListener('click', (event) => {
  const tab = event.isTrusted && page.busy && event.target.closest('#tabs [role=tab]');
  if (tab) page.opened = tab.textContent.trim();
}, true);

// Goes to the state that is on screen, but for what is said: all that a button, a dot or "Undo" does.
page.go = (says) => {
  follow();
  // Who is quick finds a tab open of which the components have not heard yet.
  const open = tabs[document.querySelector('#tabs [role=tab][aria-selected=true]')?.textContent.trim()];
  if (open && !page.busy) page.state = { ...page.state, tab: open };
  const before = page.busy ? stateOfQuery(location.search) : page.state, after = { ...before, ...says };
  if (after.m !== before.m && !('b' in says)) { // neurons are a model's own: each model has its basket
    const aside = new Map(before.aside.split(';').filter(Boolean).map((part) => part.split('=')));
    const [from, to] = [before.m, after.m].map(publicName);
    if (before.b) aside.set(from, before.b);
    if (from !== to) {
      after.b = aside.get(to) ?? '';
      aside.delete(to);
      for (const key of ['neuron', 'found', 'fires', 'list', 'list.name']) if (!(key in says)) after[key] = '';
      if (before.b) page.note = `The basket of ${from} waits until you choose that model again.`;
    } else aside.delete(to);
    after.aside = [...aside].map((part) => part.join('=')).join(';');
  } else if (before.b && after.b !== before.b && !says.isUndo) page.note = 'Your basket was replaced. Undo brings it back.';
  if (!says.isUndo) remember(before, after);
  delete after.isUndo;
  page.opened = null;
  write('pushState', after);
  restore();
};
page.soon = (act) => (page.busy ? page.waiting.push(act) : act());
page.undoBasket = () => {
  page.soon(() => page.undo.length && page.go({ ...page.undo.pop(), isUndo: true }));
};
page.collect = (neuron) => page.soon(() => {
  follow();
  const lines = page.state.list.split('\n').filter((line) => line.trim());
  const where = 'is in your collection, below the table on Map and scores.';
  if (lines.some((line) => /^\s*#?(\d+)/.exec(line)?.[1] === neuron)) return page.say(`Neuron ${neuron} ${where}`);
  page.note = `Neuron ${neuron} ${where}`;
  page.go({ list: [...lines, neuron].join('\n') });
});
page.choose = (name, served) => { // an address that brings a model sets the list, too
  if (!name || name === publicName(served)) return;
  page.soon(() => page.go({ m: name }));
};

page.keep = (text) => {
  const thing = JSON.parse(text), token = tokenOf(SECRET.exec(thing.name)[1]);
  keep(token, thing);
};

page.copy = async () => {
  const address = space || location.origin + location.pathname, query = queryOf(publicState(page.state));
  const link = address + (query && `?${query}`), own = SECRET.test(page.state.m), picture = ['pic', 'seen'].some((key) => SECRET.test(page.state[key]));
  const ownThings = [picture && 'Your picture', own && 'What you have trained'].filter(Boolean).join(' and ');
  let copied = true;
  try { await navigator.clipboard.writeText(link); } catch { copied = false; }
  page.say((copied ? 'Link copied.' : `The address bar has the link: ${link}`) + (ownThings && ` ${ownThings} stays in your browser: for others it is not part of the link.`));
};

document.addEventListener('click', (event) => {
  const again = event.target.closest('[data-run]');
  if (again) document.getElementById(again.dataset.run)?.click();
  if (event.target.closest('[data-link]')) page.soon(page.copy);
});

const begin = () => (window.cbSend ? restore() : setTimeout(begin, 10));
page.mark();
begin();
return [];
