// The link goes into the address bar and, where the browser allows it, onto the clipboard.
async (link) => {
  const query = link.slice(link.indexOf('?'));
  window.history.replaceState(null, '', query);
  const whole = link.startsWith('?') ? window.location.href : link;
  let copied = true;
  try { await navigator.clipboard.writeText(whole); } catch { copied = false; }
  const line = document.querySelector('#dock .cb-dock-said');
  if (line) line.textContent = copied ? 'Link copied. An uploaded picture is not part of it.'
    : `The address bar has the link now: ${whole}`;
}
