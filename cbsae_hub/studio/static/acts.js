// Buttons with data-act: a click says what they are for. One listener on the root outlives every new content.
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  trigger('click', { ...button.dataset });
  if (['open', 'example'].includes(button.dataset.act)) window.scrollTo({ top: 0 });
});
