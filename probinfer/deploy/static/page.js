"use strict";

// The page of a probinfer server: a form from the model's schema, its answer drawn. It asks as any client does.

const QUANTILES = [0.005, 0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975, 0.995];
const BANDS = [["0.005", "0.995", 0.15], ["0.025", "0.975", 0.25], ["0.1", "0.9", 0.35], ["0.25", "0.75", 0.5]];
const at = (id) => document.getElementById(id);
let models = [];
let model = null;
let turn = 0;  // of the latest question: an answer to one before it is not drawn

function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "rect", "line", "text", "circle", "g", "title"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// How wide a picture is: of what is narrow, so that its letters are not.
function room() {
  return Math.max(280, Math.min(560, at("answer").clientWidth - 42));
}

function short(number) {
  if (number === null || number === undefined) return "none";
  if (Number.isInteger(number) && Math.abs(number) < 1e7) return String(number);
  return String(Number(number.toPrecision(4)));
}

async function asked(path, body) {
  const headers = { "content-type": "application/json" };
  if (at("key").value) headers["x-api-key"] = at("key").value;
  const answer = await fetch(path, { headers, ...(body ? { method: "POST", body: JSON.stringify(body) } : {}) });
  if (answer.status === 401) at("keyed").hidden = false;
  const content = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
  if (!answer.ok) throw Object.assign(new Error(content.error), { status: answer.status });
  return content;
}

// the form ------------------------------------------------------------------------------------------------------------

function places(shape) {
  return shape.reduce((found, size) => found.flatMap((place) => [...Array(size).keys()].map((i) => [...place, i])), [[]]);
}

function entry(value, place) {
  return place.reduce((inner, i) => inner[i], value);
}

function field(input, place) {
  const name = place.length ? `${input.name}[${place.join(",")}]` : input.name;
  const value = entry(model.example[input.name], place);
  const range = input.parameters;
  const needed = input.missing ? { placeholder: "missing" } : { required: "" };
  let control, known;
  if (input.closed) {
    const options = input.choices.map((choice) => element("option", { value: choice }, choice));
    if (input.missing) options.push(element("option", { value: "" }, "missing"));
    control = element("select", {}, ...options);
    control.value = value;
  } else if (input.dtype === "text") {
    control = element("input", { type: "text", value, ...needed });
    if (input.choices.length) {
      known = element("datalist", { id: `known ${name}` }, ...input.choices.map((choice) => element("option", { value: choice })));
      control.setAttribute("list", known.id);
    }
  } else if (input.dtype === "date") {
    control = element("input", { type: "datetime-local", value: `${value}T00:00`, ...needed });
  } else if (input.dtype === "bool") {
    control = element("input", { type: "checkbox" });
    control.checked = Boolean(value);
  } else {
    control = element("input", { type: "number", step: input.dtype === "int64" ? "1" : "any", value, ...needed });
    if (input.dtype === "int64" && range) { control.min = range.minimum; control.max = range.maximum; }
  }
  control.dataset.input = input.name;
  control.dataset.place = JSON.stringify(place);
  control.dataset.type = input.dtype;
  const label = element("span", {}, name);
  if (control.min) label.append(element("small", {}, `${range.minimum} to ${range.maximum}`));
  if (input.missing) label.append(element("small", {}, "may be empty"));
  return element("label", { class: "field" }, label, control, ...(known ? [known] : []));
}

// A forecaster is asked for so many times, and told what came since.
function times() {
  const range = model.inputs[0].parameters, event = model.event.length;
  const steps = element("input", { id: "steps", type: "number", step: "1", min: "1", value: model.example.steps, required: "" });
  if (range.maximum !== undefined) steps.max = range.maximum;
  const observed = element("textarea", { id: "observed", rows: "3", placeholder: event ? "1.2, 3.4" : "1.2, , 3.4" });
  const hint = `${event ? "a line for each time, " : ""}from time ${model.time} on; empty: nothing came`;
  return [
    element("label", { class: "field" }, element("span", {}, "steps"), steps),
    element("label", { class: "field" }, element("span", {}, "observed since", element("small", {}, hint)), observed),
  ];
}

function number(word) {
  const text = word.trim();
  if (text === "" || text === "null") return null;
  return Number.isNaN(Number(text)) ? text : Number(text);  // the server says what is wrong with a text
}

function came(text) {
  if (!text.trim()) return [];
  if (!model.event.length) return text.trim().split(/[\n,;]/).map(number);
  return text.replace(/\n+$/, "").split("\n").map((line) => (line.trim() ? line.split(/[,;]/).map(number) : null));
}

function show(name) {
  model = models.find((one) => one.name === name);
  at("about").textContent = `${model.name} · ${(model.outcomes ?? [model]).map((one) => one.outcome).join(", ")} · ${model.verdict.startsWith("none") ? "a point model" : `verdict ${model.verdict}`} · version ${model.version}`
    + (model.refused ? " · what the path holds now was refused" : "");
  at("card").textContent = model.card;
  const forecasts = model.time !== undefined;
  at("what").textContent = forecasts ? "Times to come" : "A row";
  at("inputs").replaceChildren(...(forecasts ? times()
    : model.inputs.flatMap((input) => places(input.shape).map((place) => field(input, place)))));
  if (!model.inputs.length) at("inputs").append("The model's rows need no inputs.");
  at("answer").replaceChildren();
  ask();
}

function held(control) {
  const type = control.dataset.type;
  if (type === "bool") return control.checked;
  if (control.value === "") return null;
  return type === "text" || type === "date" ? control.value : Number(control.value);
}

function record() {
  const row = {};
  for (const control of at("inputs").querySelectorAll("[data-input]")) {
    const value = held(control);
    const place = JSON.parse(control.dataset.place);
    if (!place.length) { row[control.dataset.input] = value; continue; }
    let inner = (row[control.dataset.input] ??= []);
    for (const i of place.slice(0, -1)) inner = (inner[i] ??= []);
    inner[place.at(-1)] = value;
  }
  return row;
}

// the answer ----------------------------------------------------------------------------------------------------------

function bars(outcome, chances, inside) {
  const longest = Math.max(...chances.map((_, code) => (outcome.labels[code] ?? `class ${code}`).length));
  const step = 26, width = room(), from = Math.min(Math.max(70, 18 + 7 * longest), width / 2);
  const svg = element("svg", { viewBox: `0 0 ${width} ${step * chances.length + 8}`, role: "img" });
  svg.append(element("title", {}, "probability of each class"));
  chances.forEach((chance, code) => {
    const y = code * step + 4;
    const outside = inside && !inside[code] ? " out" : "";
    svg.append(element("text", { x: from - 10, y: y + 15, "text-anchor": "end", class: outside }, outcome.labels[code] ?? `class ${code}`));
    const length = Math.max(1, chance * (width - from - 70));
    svg.append(element("rect", { x: from, y: y + 2, width: length, height: step - 8, rx: 2, class: `band${outside}` }));
    svg.append(element("text", { x: from + length + 6, y: y + 15, class: `faint${outside}` }, short(chance)));
  });
  return svg;
}

function interval(parts) {
  const width = room(), edge = 30, step = 84;
  const ends = parts.flatMap((part) => [part.lower, part.upper, part.mean, ...Object.values(part.quantiles)]);
  const known = ends.filter((value) => typeof value === "number");
  let low = Math.min(...known), high = Math.max(...known);
  if (!(high > low)) { low -= 1; high += 1; }
  const x = (value) => edge + (value - low) / (high - low) * (width - 2 * edge);
  const svg = element("svg", { viewBox: `0 0 ${width} ${step * parts.length}`, role: "img" });
  svg.append(element("title", {}, "the predictive distribution and its interval"));
  parts.forEach((part, number) => {
    const y = number * step + 32;
    svg.append(element("line", { x1: edge, x2: width - edge, y1: y, y2: y, class: "axis" }));
    for (const [from, to, opacity] of BANDS) {
      const [a, b] = [part.quantiles[from], part.quantiles[to]];
      if (typeof a !== "number" || typeof b !== "number") continue;
      svg.append(element("rect", { x: x(a), y: y - 9, width: Math.max(1, x(b) - x(a)), height: 18, class: "band", "fill-opacity": opacity }));
    }
    for (const [value, anchor] of [[part.lower, "end"], [part.upper, "start"]]) {
      if (typeof value !== "number") continue;
      svg.append(element("line", { x1: x(value), x2: x(value), y1: y - 15, y2: y + 15, class: "end" }));
      const beside = anchor === "end" ? Math.max(x(value), 46) : Math.min(x(value), width - 46);
      svg.append(element("text", { x: beside, y: y - 20, "text-anchor": anchor }, short(value)));
    }
    if (typeof part.mean === "number") {
      svg.append(element("circle", { cx: x(part.mean), cy: y, r: 4.5, class: "mean" }));
      const beside = Math.min(Math.max(x(part.mean), 60), width - 60);
      svg.append(element("text", { x: beside, y: y + 32, "text-anchor": "middle" }, `mean ${short(part.mean)}`));
    }
  });
  return svg;
}

// A column for each time: the bands of its quantiles, the ends of its interval, its mean.
function columns(rows, place, level) {
  const width = room(), height = 240, left = 76, right = 8, top = 10, bottom = 24;
  const parts = rows.map((row) => split(model, row).find((part) => String(part.place) === String(place)));
  const ends = parts.flatMap((part) => [part.lower, part.upper, part.mean, ...Object.values(part.quantiles)]);
  const known = ends.filter((value) => typeof value === "number");
  let low = Math.min(...known), high = Math.max(...known);
  if (!(high > low)) { low -= 1; high += 1; }
  const step = (width - left - right) / rows.length;
  const x = (column) => left + column * step;
  const y = (value) => top + (high - value) / (high - low) * (height - top - bottom);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  svg.append(element("title", {}, `what comes, and its ${short(100 * level)}% intervals, over time`));
  for (const value of [low, (low + high) / 2, high]) {
    svg.append(element("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "axis" }));
    svg.append(element("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end", class: "faint" }, short(value)));
  }
  const every = Math.ceil(rows.length * 40 / width);
  parts.forEach((part, column) => {
    for (const [from, to, opacity] of BANDS) {
      const [a, b] = [part.quantiles[from], part.quantiles[to]];
      if (typeof a !== "number" || typeof b !== "number") continue;
      svg.append(element("rect", { x: x(column), y: y(b), width: step, height: Math.max(0.5, y(a) - y(b)), class: "band", "fill-opacity": opacity }));
    }
    for (const value of [part.lower, part.upper]) {
      if (typeof value !== "number") continue;
      svg.append(element("line", { x1: x(column), x2: x(column + 1), y1: y(value), y2: y(value), class: "end" }));
    }
    if (typeof part.mean === "number") {
      svg.append(element("circle", { cx: x(column + 0.5), cy: y(part.mean), r: Math.min(3.5, step / 2), class: "mean" }));
    }
    if (column % every === 0) {
      svg.append(element("text", { x: x(column + 0.5), y: height - 6, "text-anchor": "middle", class: "faint" }, rows[column].time));
    }
  });
  return svg;
}

function forecast(content) {
  const rows = content.predictions, percent = short(100 * content.level);
  const heads = ["time", "mean", `${percent}% from`, "to", "sd", "of it epistemic"];
  const names = ["time", "mean", "lower", "upper", "sd", "epistemic_sd"];
  if (model.classes) { heads.splice(1, 0, "most probable", "probabilities"); names.splice(1, 0, "most_probable", "probabilities"); }
  const line = (cells, tag) => element("tr", {}, ...cells.map((cell) => element(tag, {}, cell)));
  return element("article", { "data-outcome": model.outcome },
    element("h2", {}, `Forecast of ${model.outcome} from time ${rows[0].time} on`),
    ...places(model.event).flatMap((place) => [
      ...(place.length ? [element("p", {}, `${model.outcome}[${place.join(",")}]`)] : []), columns(rows, place, content.level),
    ]),
    element("p", { class: "guarantee report" }, content.report),
    ...(content.guarantee ? [element("p", { class: "guarantee" }, `Intervals are ${content.guarantee}.`)] : []),
    element("table", { class: "times" }, line(heads, "th"),
      ...rows.map((row) => line(names.map((name) => flat(row[name])), "td"))));
}

function split(outcome, answer) {
  return places(outcome.event).map((place) => ({
    place,
    lower: entry(answer.lower, place),
    upper: entry(answer.upper, place),
    mean: entry(answer.mean, place),
    quantiles: Object.fromEntries(Object.entries(answer.quantiles ?? {}).map(([level, value]) => [level, entry(value, place)])),
  }));
}

function flat(value) {
  if (typeof value === "string") return value;
  return Array.isArray(value) ? `[${value.map(flat).join(", ")}]` : short(value);
}

// One outcome: a model has one, or a list of them, each with an answer of its own.
function drawn(outcome, answer, level, guarantee) {
  const percent = short(100 * level);
  const one = outcome.classes && !outcome.event.length;
  const picture = one ? bars(outcome, answer.probabilities, answer.in_set) : interval(split(outcome, answer));
  const rows = [
    ["mean", answer.mean, one ? "of the class code" : ""],
    ["sd", answer.sd, ""],
    ["of it epistemic", answer.epistemic_sd, "not knowing the parameters"],
    ["of it aleatoric", answer.aleatoric_sd, "would remain if they were known"],
    [`${percent}% interval`, [answer.lower, answer.upper], one ? "of the class code" : ""],
    ["Monte Carlo error", answer.mcse, "of the mean"],
  ];
  if (one) rows.unshift(["most probable", answer.most_probable, "class"]);
  const numbers = rows.filter((row) => row[1] !== undefined).map(([name, value, text]) =>
    element("tr", {}, element("th", {}, name), element("td", {}, flat(value)), element("th", {}, text)));
  const said = guarantee ?? (one ? `Faint classes are outside the ${percent}% set.` : "");
  return element("article", { "data-outcome": outcome.name ?? outcome.outcome },
    element("h2", {}, `Prediction of ${outcome.outcome}`), picture, element("table", {}, ...numbers),
    element("p", { class: "guarantee" }, said));
}

function draw(content) {
  if (model.time !== undefined) { at("answer").replaceChildren(forecast(content)); return; }
  const answer = content.predictions[0];
  at("answer").replaceChildren(...(model.outcomes
    ? model.outcomes.map((outcome) => drawn(outcome, answer[outcome.name], content.level, content.guarantee?.[outcome.name]))
    : [drawn(model, answer, content.level, content.guarantee)]));
}

function wanted(outcome) {
  const names = ["time", "mean", "sd", "lower", "upper", "epistemic_sd", "aleatoric_sd", "mcse", "quantiles"];
  if (outcome.classes) names.push("probabilities", "most_probable", "in_set");
  return names.filter((output) => outcome.outputs.includes(output));
}

async function ask() {
  if (!model || !at("form").reportValidity()) return;
  const mine = ++turn;
  const asking = (path, body) => asked(path, body).then((content) => { if (mine === turn) draw(content); });
  at("ask").disabled = true;
  at("problem").textContent = "";
  try {
    const outputs = model.outcomes
      ? model.outcomes.flatMap((outcome) => wanted(outcome).map((output) => `${outcome.name}.${output}`)) : wanted(model);
    const body = model.time === undefined ? { records: [record()] }
      : { steps: Number(at("steps").value), observed: came(at("observed").value) };
    body.level = Number(at("level").value);
    const path = `/predict/${encodeURIComponent(model.name)}`;
    const plain = outputs.filter((output) => !output.endsWith("quantiles"));
    try {
      await asking(path, { ...body, outputs, ...(plain.length < outputs.length ? { quantiles: QUANTILES } : {}) });
    } catch (error) {  // few calibration rows have no quantiles so far out, and an interval all the same
      if (error.status !== 422 || plain.length === outputs.length) throw error;
      await asking(path, { ...body, outputs: plain });
    }
  } catch (error) {
    if (mine !== turn) return;
    at("problem").textContent = error.message;
    at("answer").replaceChildren();  // what is there was answered to something else
  } finally {
    if (mine === turn) at("ask").disabled = false;
  }
}

async function begin() {
  try {
    models = (await asked("/models")).models;
  } catch (error) {
    at("problem").textContent = error.message;
    return;
  }
  at("problem").textContent = "";
  at("choose").hidden = models.length < 2;
  at("model").replaceChildren(...models.map((one) => element("option", { value: one.name }, one.name)));
  show(models[0].name);
}

at("model").addEventListener("change", (event) => show(event.target.value));
at("key").addEventListener("change", begin);
at("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
begin();
