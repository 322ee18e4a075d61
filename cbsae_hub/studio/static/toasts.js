// Gradio's messages: a head with a button in it is no button itself, and Escape closes them.
() => {
  const mend = () => {
    for (const head of document.querySelectorAll('.toast-header[role=button]')) for (const name of ['role', 'tabindex']) head.removeAttribute(name);
  };
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') for (const button of document.querySelectorAll('.toast-close')) button.click();
  });
}
