// What the network takes a query for: bars for the classes, and the steps of the adaptation to watch.

import { element } from "./tile.js";

const percent = (probability) => `${(100 * probability).toFixed(probability > 0.995 && probability < 1 ? 1 : 0)} %`;

export const best = (probabilities) => probabilities.indexOf(Math.max(...probabilities));

// Shows one query's probabilities. found: what the server answered; names and places of its classes; step: the one to
// show, by its index; watch: called with another one.
export function show(panel, { found, names, places, query, step, watch }) {
  const alone = found.alone[query];
  const together = found.together?.[query];
  const winner = best(alone[step]);
  const title = element("p", { className: "winner" }, element("span", { textContent: "It is most likely" }), element("strong", { textContent: names[winner] }));
  title.dataset.place = places[winner];
  const kept = document.activeElement?.closest("#answer") ? step : -1;
  panel.replaceChildren(title, bars(alone[step], together?.[step], names, places, winner), steps(found.steps, alone, places, step, watch));
  if (together) panel.append(explanation());
  if (kept >= 0) panel.querySelector("input:checked").focus();
}

function bars(alone, together, names, places, winner) {
  const table = element("table", { className: together ? "bars both" : "bars" });
  table.createCaption().textContent = "Probability of each character";
  table.caption.className = "unseen";
  table.append(element("colgroup", {}, element("col")));
  const head = table.createTHead().insertRow();
  for (const text of ["character", "alone", ...(together ? ["together"] : [])]) {
    head.append(element("th", { textContent: text, scope: "col" }));
  }
  table.tHead.className = together ? "" : "unseen";
  const body = table.createTBody();
  names.forEach((name, i) => {
    const row = body.insertRow();
    row.dataset.place = places[i];
    row.className = i === winner ? "best" : "";
    row.append(element("th", { textContent: name, scope: "row" }));
    for (const probabilities of together ? [alone, together] : [alone]) {
      const fill = element("span", { className: "fill" });
      fill.style.width = `${100 * probabilities[i]}%`;
      row.append(element("td", {}, element("span", { className: "bar" }, fill), element("span", { className: "number", textContent: percent(probabilities[i]) })));
    }
  });
  return table;
}

function steps(counts, alone, places, step, watch) {
  const field = element("fieldset", { className: "steps" }, element("legend", { textContent: "After this many learning steps" }));
  counts.forEach((count, i) => {
    const input = element("input", { type: "radio", name: "step", className: "unseen", checked: i === step, onchange: () => watch(i) });
    const column = element("span", { className: "column" });
    column.setAttribute("aria-hidden", "true");
    alone[i].forEach((probability, k) => {
      const part = element("span", { className: "part" });
      part.dataset.place = places[k];
      part.style.height = `${100 * probability}%`;
      column.append(part);
    });
    field.append(element("label", {}, input, column, element("span", { textContent: count })));
  });
  return field;
}

function explanation() {
  return element(
    "details",
    {},
    element("summary", { textContent: "Alone or together?" }),
    element("p", {
      textContent:
        "Alone (inductive): the network sees one query beside the examples. Together (transductive): it sees all queries at once, and normalises by their statistics. This helps if the queries are spread evenly over the characters.",
    }),
  );
}
