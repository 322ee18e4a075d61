// Dots on canvases: drawn when they are seen, in the colours of the theme; a click opens the nearest neuron.
const PAD = 34;
const nearest = (map, x, y) => {
  let best = null, least = 144;
  for (const point of map.points) {
    const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
    if (distance < least) { least = distance; best = point; }
  }
  return best;
};
const draw = (section) => {
  const canvas = section.querySelector('canvas'), width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return;
  const scale = window.devicePixelRatio || 1, style = getComputedStyle(section);
  canvas.width = width * scale; canvas.height = height * scale;
  const pen = canvas.getContext('2d');
  pen.scale(scale, scale);
  const ink = style.getPropertyValue('--cb-ink'), line = style.getPropertyValue('--cb-line');
  const data = JSON.parse(section.dataset.points), [midX, midY] = JSON.parse(section.dataset.lines);
  const x = (value) => PAD + value * (width - PAD - 8), y = (value) => height - PAD - value * (height - PAD - 8);
  pen.strokeStyle = line; pen.lineWidth = 1;
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    pen.beginPath(); pen.moveTo(x(tick), y(0)); pen.lineTo(x(tick), y(1)); pen.moveTo(x(0), y(tick)); pen.lineTo(x(1), y(tick));
    pen.globalAlpha = 0.5; pen.stroke(); pen.globalAlpha = 1;
    pen.fillStyle = ink; pen.font = '11px system-ui, sans-serif';
    pen.textAlign = 'center'; pen.fillText(String(tick), x(tick), height - PAD + 14);
    pen.textAlign = 'right'; pen.fillText(String(tick), PAD - 5, y(tick) + 4);
  }
  pen.setLineDash([5, 4]); pen.strokeStyle = ink; pen.beginPath();
  pen.moveTo(x(midX), y(0)); pen.lineTo(x(midX), y(1)); pen.moveTo(x(0), y(midY)); pen.lineTo(x(1), y(midY)); pen.stroke();
  pen.setLineDash([]);
  pen.textAlign = 'center'; pen.fillText('interpretability', x(0.5), height - 4);
  pen.save(); pen.translate(10, y(0.625)); pen.rotate(-Math.PI / 2); pen.fillText('steerability', 0, 0); pen.restore();
  section.points = data.map(([neuron, across, up, concept, title]) => ({ neuron, concept, title, x: x(across), y: y(Math.max(0, up)) }));
  const small = data.length > 3000 ? 1.6 : 2.6;
  for (const kind of [0, 1]) for (const point of section.points) {
    if (point.concept !== kind) continue;
    pen.beginPath();
    if (kind) {
      pen.fillStyle = style.getPropertyValue('--cb-mark');
      pen.moveTo(point.x, point.y - 6); pen.lineTo(point.x + 6, point.y); pen.lineTo(point.x, point.y + 6); pen.lineTo(point.x - 6, point.y);
    } else {
      pen.fillStyle = style.getPropertyValue('--cb-dot');
      pen.arc(point.x, point.y, small, 0, 7);
    }
    pen.fill();
  }
};
const drawAll = () => element.querySelectorAll('.cb-map[data-points]').forEach(draw);
const at = (event) => {
  const canvas = event.target.closest('canvas');
  if (!canvas) return null;
  const section = canvas.closest('.cb-map'), box = canvas.getBoundingClientRect();
  return section.points && { section, point: nearest(section, event.clientX - box.left, event.clientY - box.top) };
};
element.addEventListener('mousemove', (event) => {
  const hit = at(event);
  if (!hit) return;
  event.target.style.cursor = hit.point ? 'pointer' : 'default';
  if (hit.point) hit.section.querySelector('.cb-map-said').textContent = hit.point.title;
});
element.addEventListener('click', (event) => {
  const hit = at(event);
  if (hit?.point) window.cbPage.go({ tab: 'neuron', neuron: String(hit.point.neuron), m: hit.section.dataset.model });
});
new ResizeObserver(drawAll).observe(element);
window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawAll);
watch('value', drawAll);
drawAll();
