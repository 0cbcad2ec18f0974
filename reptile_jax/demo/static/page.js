// The page: rows of examples, queries, and a question to the server after every change.

import * as api from "./api.js";
import { best, show } from "./answer.js";
import { Pad } from "./pad.js";
import { Photograph } from "./photograph.js";
import { element, setAbout } from "./tile.js";

const HEARTBEAT = { there: 5000, gone: 1500 }; // milliseconds between two checks that the server is there

const at = (id) => document.getElementById(id);
const rows = []; // {input, tiles, list, button, spare}: name, images, where they stand, test drawings still to load
const queries = [];
let about, answer, asking, again, selected, step;

function say(sentence) {
  at("said").textContent = sentence;
}

function gone(is) {
  if (at("gone").hidden !== is) return;
  at("gone").hidden = !is;
  if (!is) for (const tile of tiles()) tile.retry();
  if (!is) ask();
}

const tiles = () => [...rows.flatMap((row) => row.tiles), ...queries];

function tile(label, changed, others) {
  return about.drawings ? new Pad(label, changed, say) : new Photograph(label, changed, say, others);
}

function changed(one, error) {
  if (error instanceof api.GoneError) return gone(true);
  for (const row of rows) tidy(row);
  tidyQueries();
  if (queries.includes(one) && !one.empty) selected = queries.indexOf(one);
  ask();
}

// A row has its images and one empty place, up to the most that there may be.
function tidy(row) {
  const empty = row.tiles.filter((one) => one.empty);
  for (const one of empty.slice(1)) {
    one.element.remove();
    row.tiles.splice(row.tiles.indexOf(one), 1);
  }
  if (!empty.length && row.tiles.length < about.examples) addExample(row);
  row.button.hidden = !row.spare?.length || !row.tiles.some((one) => one.empty);
  name(row);
}

// Shows and enables the buttons that can be used now.
function tidyQueries() {
  const empty = queries.some((query) => query.empty), full = queries.length >= about.queries;
  at("another").disabled = empty || full;
  at("load-query").disabled = full && !empty;
  at("load-query").hidden = !rows.some((row) => row.later?.length);
}

function name(row) {
  row.tiles.forEach((one, i) => one.rename(`Example ${i + 1} of ${row.input.value || "a character"}`));
  row.button.setAttribute("aria-label", `Load another example of ${row.input.value}`);
}

function addExample(row) {
  const more = (files) => {
    for (const file of files) {
      const free = row.tiles.find((one) => one.empty) ?? (row.tiles.length < about.examples && addExample(row));
      if (free) free.send(file);
    }
  };
  const one = tile("", changed, more);
  row.tiles.push(one);
  row.list.append(one.element);
  name(row);
  return one;
}

function addRow(place) {
  const input = element("input", { value: "ABCDE"[place], maxLength: 30, autocomplete: "off", spellcheck: false });
  input.setAttribute("aria-label", `Name of character ${place + 1}`);
  const button = element("button", { type: "button", className: "quiet", textContent: "+ example", hidden: true });
  const row = { input, button, tiles: [], list: element("div", { className: "tiles" }) };
  button.onclick = () => row.tiles.find((one) => one.empty).load(row.spare.shift());
  input.oninput = () => {
    name(row);
    display();
  };
  const line = element("li", {}, element("div", { className: "name" }, element("span", { className: "dot" }), input, button), row.list);
  line.dataset.place = place;
  rows.push(row);
  at("rows").append(line);
  addExample(row);
}

function addQuery() {
  const more = (files) => {
    for (const file of files) if (queries.length < about.queries) addQuery().send(file);
  };
  const one = tile(`Query ${queries.length + 1}`, changed, more);
  one.element.classList.add("query");
  one.element.addEventListener("pointerdown", () => select(one));
  one.element.addEventListener("focusin", () => select(one));
  queries.push(one);
  at("queries").append(one.element);
  tidyQueries();
  return one;
}

function select(one) {
  if (selected === queries.indexOf(one)) return;
  selected = queries.indexOf(one);
  display();
}

// Asks the server, one question after the other; the newest state counts.
async function ask() {
  again = true;
  if (asking) return;
  asking = true;
  while (again) {
    again = false;
    const known = rows.map((_, i) => i).filter((i) => rows[i].tiles.some((one) => one.pixels));
    const asked = queries.filter((one) => one.pixels);
    if (known.length < 2 || !asked.length) {
      answer = null;
      display();
      continue;
    }
    at("answer").setAttribute("aria-busy", "true");
    try {
      const support = known.map((i) => rows[i].tiles.filter((one) => one.pixels).map((one) => one.pixels));
      const found = await api.answer(support, asked.map((one) => one.pixels));
      answer = { found, places: known, asked };
      step = Math.min(step ?? Infinity, found.steps.length - 1);
      if (!again) display(true);
    } catch (error) {
      answer = null;
      display();
      if (error instanceof api.GoneError) gone(true);
      else at("hint").textContent = error.message;
    }
    at("answer").removeAttribute("aria-busy");
  }
  asking = false;
}

const nameOf = (place) => rows[place].input.value || "?";

function display(aloud = false) {
  const learned = rows.filter((row) => row.tiles.some((one) => !one.empty)).length;
  const verb = about.drawings ? "Draw" : "Give";
  at("answer").hidden = !answer;
  at("hint").textContent = answer ? "" : learned < 2
    ? `${verb} at least two ${about.drawings ? "characters" : "classes"} to learn${about.characters ? ", or load test characters" : ""}.`
    : `${about.drawings ? "Draw one of them again" : "Give another image of one of them"}, and see what it is taken for.`;
  queries.forEach((one, i) => {
    const index = answer ? answer.asked.indexOf(one) : -1;
    const last = index >= 0 ? answer.found.alone[index].at(-1) : null;
    one.caption.textContent = last ? nameOf(answer.places[best(last)]) : "";
    one.element.classList.toggle("selected", queries.length > 1 && i === selected);
  });
  if (!answer) return;
  const query = Math.max(0, answer.asked.indexOf(queries[selected]));
  const names = answer.places.map(nameOf);
  const watch = (index) => {
    step = index;
    display();
  };
  show(at("answer"), { ...answer, names, query, step, watch });
  const alone = answer.found.alone[query].at(-1);
  if (aloud) say(`Query ${queries.indexOf(answer.asked[query]) + 1} is most likely ${names[best(alone)]}, ${Math.round(100 * Math.max(...alone))} per cent.`);
}

function clearAll() {
  for (const row of rows) {
    Object.assign(row, { spare: [], later: [] });
    row.input.title = "";
    for (const one of [...row.tiles]) one.clear();
  }
  while (queries.length > 1) queries.pop().element.remove();
  queries[0].clear();
  selected = 0;
}

const made = (one) => (about.drawings ? one.strokes.length : !one.empty); // by the person, not loaded

const replaces = () => !tiles().some(made) || confirm(`Delete your ${about.drawings ? "drawings" : "images"}?`);

async function load() {
  if (!replaces()) return;
  try {
    const found = await api.characters();
    clearAll();
    found.forEach(({ name, drawings }, i) => {
      rows[i].input.title = name;
      rows[i].spare = drawings.slice(1, about.examples);
      rows[i].later = drawings.slice(about.examples);
      rows[i].tiles[0].load(drawings[0]);
    });
    loadQuery();
    const question = at("ask").closest("section");
    if (question.getBoundingClientRect().top > innerHeight) question.scrollIntoView(); // on a phone
  } catch (error) {
    if (error instanceof api.GoneError) gone(true);
    else at("hint").textContent = error.message;
  }
}

// Loads a drawing that no row has shown, of a character at random.
function loadQuery() {
  const left = rows.filter((row) => row.later?.length);
  if (!left.length) return;
  const free = queries.find((one) => one.empty) ?? addQuery();
  free.load(left[Math.floor(Math.random() * left.length)].later.shift());
}

async function watchServer() {
  try {
    const found = await api.about();
    if (JSON.stringify(found) !== JSON.stringify(about)) location.reload(); // a server with other weights
    gone(false);
  } catch {
    gone(true);
  }
  setTimeout(watchServer, at("gone").hidden ? HEARTBEAT.there : HEARTBEAT.gone);
}

async function begin() {
  try {
    about = await api.about();
  } catch {
    at("gone").hidden = false;
    setTimeout(begin, HEARTBEAT.gone);
    return;
  }
  at("gone").hidden = true;
  setAbout(about);
  document.body.classList.add(about.drawings ? "drawings" : "photographs");
  if (!about.drawings) {
    document.title = "Reptile: images of your own";
    at("learn").textContent = "Classes to learn";
    for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault()); // beside a place
  }
  const kind = about.drawings ? "characters" : "classes of images";
  at("lead").textContent = `Give this neural network, which was trained with Reptile, one to five examples of a few ${kind}. It takes ${about.steps.at(-1)} small learning steps, and then says which of them your next ${about.drawings ? "drawing" : "image"} is.`;
  const source = about.characters ? ` Test characters come from ${about.characters}.` : "";
  at("about").textContent = `Weights: ${about.weights}. What you ${about.drawings ? "draw" : "give"} goes to the program that you started, and nowhere else.${source}`;
  for (let place = 0; place < about.classes; place++) addRow(place);
  addQuery();
  selected = 0;
  at("load").hidden = !about.characters;
  at("load").onclick = load;
  at("load-query").onclick = loadQuery;
  at("over").onclick = () => replaces() && clearAll();
  at("another").onclick = () => {
    const one = addQuery();
    one.element.querySelector("[tabindex], input").focus();
  };
  display();
  setTimeout(watchServer, HEARTBEAT.there);
}

begin();
