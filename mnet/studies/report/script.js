"use strict";
// Charts, one after another so that the page stays responsive; tables that sort and filter; light and dark.

const MARK = '[role="graphics-symbol"][aria-label]:not([aria-roledescription="axis"])';
const marks = (chart) => [...chart.querySelectorAll(MARK)];

function say(chart, mark) {
  marks(chart).forEach((one) => one.classList.toggle("here", one === mark));
  chart.nextElementSibling.textContent = mark ? mark.getAttribute("aria-label") : "";
}

function walk(event) {
  const chart = event.currentTarget, all = marks(chart), at = all.findIndex((one) => one.classList.contains("here"));
  const next = {
    ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at < 0 ? -1 : at - 1, ArrowUp: at < 0 ? -1 : at - 1,
    Home: 0, End: all.length - 1, Escape: null,
  }[event.key];
  if (next === undefined || !all.length || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  say(chart, next === null ? null : all[(next + all.length) % all.length]);
}

async function draw(chart, spec) {
  const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false };
  const { view } = await vegaEmbed(chart, spec, { ...options, tooltip: { disableDefaultStyle: true } });
  view.addEventListener("click", (_, item) => {
    const mark = item && marks(chart).find((one) => one.getAttribute("aria-label") === item.description);
    if (mark) say(chart, mark);
  });
  chart.addEventListener("keydown", walk);
  chart.addEventListener("blur", () => say(chart, null));
}

async function drawAll() {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  for (const [id, spec] of Object.entries(specs)) {
    await draw(document.getElementById(id), spec);
    await new Promise((resume) => setTimeout(resume));
  }
  document.documentElement.dataset.drawn = Object.keys(specs).length;
}

// A record is a tbody: its row, its rows of evidence, and the details shown on demand.
function sortBy(head) {
  const table = head.closest("table"), column = head.cellIndex, up = head.getAttribute("aria-sort") !== "ascending";
  const key = (body) => {
    const cell = body.rows[0].cells[column];
    return cell.dataset.v === undefined ? cell.textContent.trim() : Number(cell.dataset.v);
  };
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // what is missing comes last, either way
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    return up ? order : -order;
  };
  const bodies = [...table.tBodies].map((body) => [key(body), body]);
  table.append(...bodies.sort((a, b) => compare(a[0], b[0])).map(([, body]) => body));
  for (const one of head.parentNode.cells) one.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
}

function toggle(button, rows) {
  const open = button.getAttribute("aria-expanded") !== "true";
  button.setAttribute("aria-expanded", open);
  for (const row of rows) row.hidden = !open;
}

function showEvidence(button) {
  const rows = [...button.closest("tbody").rows].filter((row) => row.classList.contains("evidence"));
  toggle(button, rows);
  for (const row of rows) {
    const open = row.querySelector(".open"), detail = row.nextElementSibling;
    if (row.hidden && open?.getAttribute("aria-expanded") === "true") toggle(open, [detail]);
  }
}

function copy(button) {
  const code = button.previousElementSibling, range = document.createRange();
  range.selectNodeContents(code);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  const done = () => { button.textContent = "copied"; };
  if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(done, () => {});
  else if (document.execCommand("copy")) done(); // a file opened from disk may have no clipboard of its own
}

document.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  if (button.matches(".sort")) sortBy(button.closest("th"));
  if (button.matches(".open")) toggle(button, [button.closest("tr").nextElementSibling]);
  if (button.matches(".more")) showEvidence(button);
  if (button.matches(".copy")) copy(button);
  if (button.id === "theme") setTheme(!isDark());
});

const filters = [...document.querySelectorAll("[data-filter]")];
for (const one of filters) one.addEventListener("change", () => {
  const bodies = [...document.getElementById("claims-table").tBodies];
  for (const body of bodies) {
    body.hidden = filters.some(({ value, dataset }) => value && body.dataset[dataset.filter] !== value);
  }
  document.querySelector("#claims output").textContent = `${bodies.filter((body) => !body.hidden).length} claims`;
});

const system = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
function setTheme(dark) {
  if (dark !== undefined) root.dataset.theme = dark ? "dark" : "light";
  const button = document.getElementById("theme");
  button.textContent = isDark() ? "Light" : "Dark";
  button.setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours");
}
system.addEventListener("change", () => setTheme());
setTheme();

addEventListener("beforeprint", () => document.querySelector(".rule")?.setAttribute("open", ""));

// A link to a table inside closed details opens them.
const fragment = () => { try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; } };  // "%" alone
const reveal = () => { document.getElementById(fragment())?.closest("details")?.setAttribute("open", ""); };
addEventListener("hashchange", reveal);
reveal();

drawAll();
