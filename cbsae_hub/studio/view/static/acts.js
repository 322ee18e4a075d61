// Buttons with data-act: a click says what they are for. One listener on the root outlives every new content.
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  const { act, says } = button.dataset;
  if (says) window.cbPage.go(JSON.parse(says));
  else if (act === 'open') window.cbPage.go({ tab: 'neuron', neuron: button.dataset.neuron });
  else if (act === 'collect') window.cbPage.collect(button.dataset.neuron);
  else if (act === 'sample') trigger('click', { ...button.dataset });
  else window.cbBasket({ ...button.dataset });
  if (says || act === 'open') window.scrollTo({ top: 0 });
});
