"use strict";

// Comparison for sort: positive if b comes first. Missing values (NaN) come last in both directions.
function compare(a, b, sign) {
  return Number.isNaN(a) || Number.isNaN(b) ? Number.isNaN(a) - Number.isNaN(b) : sign * (a - b);
}

const words = new Intl.Collator(undefined, { numeric: true });

function sortRows(header) {
  const body = header.closest("table").tBodies[0];
  const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of header.parentNode.cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const rows = Array.from(body.rows, (row) => {
    const text = row.cells[header.cellIndex].textContent;
    const isMissing = text === "–" || text === "";
    return { row, text, value: parseFloat(text), isMissing };
  });
  const isNumeric = rows.every(({ value, isMissing }) => isMissing || Number.isFinite(value));
  rows.sort((a, b) => {
    const missing = a.isMissing - b.isMissing;
    if (missing || (a.isMissing && b.isMissing)) return missing;
    return sign * ((isNumeric && a.value - b.value) || words.compare(a.text, b.text));
  });
  body.append(...rows.map(({ row }) => row));
}

for (const header of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.append(...header.childNodes);
  header.append(button);
  header.setAttribute("aria-sort", "none");
  header.addEventListener("click", () => sortRows(header));
}

const gallery = document.getElementById("gallery");
const lower = JSON.parse(gallery.dataset.lower);
const pictures = Array.from(gallery.children, (card, place) => ({
  card,
  place,
  title: card.dataset.title.toLowerCase(),
  group: card.dataset.group,
  classes: JSON.parse(card.dataset.classes),
  scores: JSON.parse(card.dataset.scores),
}));
const form = document.getElementById("controls");
const controls = form.elements;

// Fills a select; it is hidden if it has fewer choices than `least`.
function fillSelect(select, choices, least) {
  for (const [value, text] of choices) select.append(new Option(text, value));
  select.parentNode.hidden = choices.size < least;
}

const sorted = (texts) => new Map([...new Set(texts)].sort(words.compare).map((text) => [text, text]));
fillSelect(controls.class, sorted(pictures.flatMap(({ classes }) => classes)), 1);
fillSelect(controls.group, sorted(pictures.map(({ group }) => group)), 2);
const measures = new Map();
for (const { scores } of pictures) {
  for (const [method, values] of Object.entries(scores)) {
    for (const name of Object.keys(values)) measures.set(JSON.stringify([method, name]), `${name} · ${method}`);
  }
}
fillSelect(controls.measure, measures, 1);

function update() {
  const [method, measure] = JSON.parse(controls.measure.value || "[]");
  const sign = controls.order.value * (lower.includes(measure) ? -1 : 1);
  const value = ({ place, scores }) => (method === undefined ? place : scores[method]?.[measure] ?? NaN);
  gallery.append(...[...pictures].sort((a, b) => compare(value(a), value(b), sign)).map(({ card }) => card));
  const text = controls.text.value.trim().toLowerCase();
  let shown = 0;
  for (const { card, title, group, classes } of pictures) {
    const isOfClass = !controls.class.value || classes.includes(controls.class.value);
    const isOfGroup = !controls.group.value || group === controls.group.value;
    card.hidden = !(isOfClass && isOfGroup && title.includes(text));
    shown += !card.hidden;
  }
  controls.count.value = `${shown} of ${pictures.length} shown`;
}

form.addEventListener("change", update);
form.addEventListener("submit", (event) => event.preventDefault());
controls.text.addEventListener("input", update);
form.hidden = false;
update();
