"use strict";

const AXES = ["relevance", "coherence", "aesthetics", "realism", "overall"];
const CHOICES = ["left", "tie", "both_bad", "right"];
const KEYS = {
  ArrowLeft: "left", a: "left", ArrowRight: "right", d: "right", ArrowUp: "tie", w: "tie", ArrowDown: "both_bad", s: "both_bad",
};
const SIGNS = { left: "←", right: "→", tie: "↑", both_bad: "↓" };
const TEXTS = {
  en: {
    title: "Two pictures, five questions",
    task: "Two programs were given the text above the pictures. Look at both pictures, and say which one is better. " +
      "You are not told which program drew which, and the sides change.",
    choices: "Answer “Same” if they are equally good, and “Both bad” if neither will do. Some pairs come twice, and in some " +
      "one picture is spoiled: they tell whether answers can be relied on.",
    taps: "A tap on a picture makes both larger; one on a long text folds it.",
    stored: "Your answers are stored with the language that you read and the time that each took. Your name is not.",
    begin: "Begin", back: "Back", next: "Next", left: "Left", right: "Right", tie: "Same", both_bad: "Both bad",
    thanks: "That was all. Thank you! You may close this page.",
    theme: "Light or dark (T)", help: "Questions and keys (?)",
    loading: "The pictures did not load. Press Enter to try again.",
    offline: "The server does not answer. Nothing is lost: press Enter to send it again.",
    relevance: "Relevance", coherence: "Coherence", aesthetics: "Aesthetics", realism: "Realism", overall: "Overall",
    ask: {
      relevance: "Which shows what the text asks for?",
      coherence: "Which hangs together: bodies, objects, light, letters?",
      aesthetics: "Which is the finer picture to look at?",
      realism: "Which looks more like a real photo, or real work of its style?",
      overall: "Which would you rather have?",
    },
    keys: [
      ["← → or A D", "left, right is better"], ["↑ ↓ or W S", "same, both bad"], ["Shift with these", "the same for all that is open"],
      ["1 to 5", "choose a question"], ["Enter or Space", "next pair"], ["Backspace or U", "back to the pair before, to change it"],
      ["Z or a click", "larger, larger still, as before"], ["L, T, ?", "language, light or dark, this page"],
    ],
  },
  zh: {
    title: "两张图，五个问题",
    task: "两个程序根据图片上方的文字各画了一张图。请看完两张图，选出更好的一张。您不会知道哪张出自哪个程序，左右位置也会变化。",
    choices: "一样好请选“一样”，两张都不行请选“都差”。有些图会出现两次，有些图中有一张被故意弄坏，用来确认回答是否可靠。",
    taps: "点一下图片可放大两张图；点一下长文字可将其折叠。",
    stored: "我们会保存您的回答、阅读的语言和所用的时间，不保存您的姓名。",
    begin: "开始", back: "返回", next: "下一组", left: "左边", right: "右边", tie: "一样", both_bad: "都差",
    thanks: "全部完成，谢谢！现在可以关闭本页。",
    theme: "浅色或深色 (T)", help: "问题与按键 (?)",
    loading: "图片没有加载成功，请按回车键重试。",
    offline: "服务器没有响应。回答没有丢失，请按回车键重新发送。",
    relevance: "切题", coherence: "连贯", aesthetics: "美感", realism: "真实", overall: "总体",
    ask: {
      relevance: "哪张更符合文字的要求？",
      coherence: "哪张更合理：身体、物体、光线、文字？",
      aesthetics: "哪张更好看？",
      realism: "哪张更像真实照片，或更像该风格的真作？",
      overall: "您更想要哪一张？",
    },
    keys: [
      ["← → 或 A D", "左边好，右边好"], ["↑ ↓ 或 W S", "一样，都差"], ["同时按 Shift", "其余问题都用同一回答"],
      ["1 到 5", "选择问题"], ["回车或空格", "下一组"], ["退格或 U", "返回上一组修改"],
      ["Z 或点击图片", "放大，再放大，还原"], ["L, T, ?", "语言，浅色或深色，本说明"],
    ],
  },
};

const at = (id) => document.getElementById(id);
const made = (tag, text = "", name = "") => Object.assign(document.createElement(tag), { textContent: text, className: name });
const kept = (key, value) => {
  try {
    return value === undefined ? localStorage.getItem(key) : localStorage.setItem(key, value);
  } catch { return null; } // a browser that keeps nothing
};

let language = kept("language") || (navigator.language.startsWith("zh") ? "zh" : "en");
let waiting = [], task = null, axis = 0, back = 0, busy = false, ready = false, since = 0, done = 0, of = 0;
const drafts = new Map(); // id -> answers that were not sent yet

/* What the server says: an object, or an error whose message is for the rater. */
async function ask(path, body) {
  const sent = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let response, said;
  try {
    response = await fetch(path, sent || {});
    said = await response.json();
  } catch { throw new Error(TEXTS[language].offline); }
  if (!response.ok) throw Object.assign(new Error(said.error), { status: response.status });
  return said;
}

const pictures = (shown) => ["left", "right"].map((side) => `/image/${shown.id}/${side}`);
const answers = () => drafts.get(task.id);
const complete = () => task && AXES.every((name) => answers()[name]);

function take(said) {
  ({ waiting, done, of } = said);
  for (const later of waiting) for (const source of pictures(later)) new Image().src = source;
  for (const id of drafts.keys()) if (!waiting.some((one) => one.id === id)) drafts.delete(id);
  back = 0;
  show(waiting[0] || null);
}

async function show(next) {
  task = next;
  if (task && !drafts.has(task.id)) drafts.set(task.id, { ...task.answers });
  axis = task ? Math.max(0, AXES.findIndex((name) => !answers()[name])) : 0;
  zoom(0);
  at("prompt").classList.remove("folded");
  draw();
  if (task) await load();
}

async function load() {
  const wanted = task;
  ready = false;
  draw();
  ["left", "right"].forEach((side, i) => { if (at(side).getAttribute("src") !== pictures(task)[i]) at(side).src = pictures(task)[i]; });
  try {
    await Promise.all([at("left").decode(), at("right").decode()]);
  } catch {
    if (wanted === task) say(TEXTS[language].loading);
    return;
  }
  if (wanted !== task) return;
  ready = true;
  since = performance.now();
  if (at("message").textContent === TEXTS[language].loading) say("");
  draw();
}

function say(text) { at("message").textContent = text; }

function draw() {
  const texts = TEXTS[language];
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = texts[element.dataset.text];
  for (const element of document.querySelectorAll("[data-title]")) {
    element.title = texts[element.dataset.title];
    element.setAttribute("aria-label", element.title);
  }
  at("language").textContent = language === "en" ? "中文" : "English";
  at("progress").max = Math.max(of, 1);
  at("progress").value = done;
  at("count").textContent = `${done} / ${of}`;
  at("back").disabled = busy || back >= done;
  at("main").hidden = !task;
  at("thanks").hidden = Boolean(task) || !of;
  if (!task) return;
  const prompt = task.prompt[language] || task.prompt.en;
  at("prompt").textContent = prompt;
  at("prompt").lang = task.prompt[language] ? language : "en";
  at("prompt").classList.toggle("long", prompt.length > (at("prompt").lang === "zh" ? 90 : 220));
  at("left").alt = texts.left;
  at("right").alt = texts.right;
  at("panes").classList.toggle("loading", !ready);
  at("next").disabled = busy || !ready || !complete();
  const focused = document.activeElement.dataset;
  at("questions").replaceChildren(...AXES.map(question));
  if (focused.choice) document.querySelector(`[data-axis=${focused.axis}][data-choice=${focused.choice}]`).focus();
}

function question(name, i) {
  const texts = TEXTS[language], row = made("div", "", "question"), head = made("div"), row4 = made("div", "", "answers");
  row.classList.toggle("current", i === axis);
  head.append(made("span", texts[name], "name"), made("div", texts.ask[name], "meaning"));
  row4.setAttribute("role", "radiogroup");
  row4.setAttribute("aria-label", `${texts[name]}: ${texts.ask[name]}`);
  row4.append(...CHOICES.map((choice) => {
    const button = made("button", texts[choice] + " ");
    button.type = "button";
    button.dataset.axis = name;
    button.dataset.choice = choice;
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", String(answers()[name] === choice));
    button.disabled = !ready;
    if (i === axis) button.append(made("kbd", SIGNS[choice]));
    return button;
  }));
  row.append(head, row4);
  return row;
}

function answer(i, choice, rest) {
  if (!task || !ready || busy) return;
  for (let j = 0; j < AXES.length; j++) if (j === i || (rest && !answers()[AXES[j]])) answers()[AXES[j]] = choice;
  const open = [...AXES.keys()].map((j) => (i + 1 + j) % AXES.length).find((j) => !answers()[AXES[j]]);
  axis = open === undefined ? i : open;
  say("");
  draw();
}

async function next() {
  if (busy || !task) return;
  if (!ready) return load();
  if (!complete()) return;
  busy = true;
  draw();
  const milliseconds = Math.min(Math.round(performance.now() - since), 86400000);
  const read = task.prompt[language] ? language : "en";
  const vote = { id: task.id, revision: task.revision, answers: answers(), language: read, milliseconds };
  try {
    take(await ask("/api/votes", vote));
    say("");
  } catch (error) {
    say(error.message);
    if (error.status === 409) {
      drafts.delete(task.id);
      await refresh();
      say(error.message);
    }
  }
  busy = false;
  draw();
}

async function step(by) {
  if (busy || back + by < 0 || back + by > done) return;
  busy = true;
  try {
    if (back + by === 0) take(await ask("/api/tasks"));
    else {
      const earlier = await ask(`/api/answered/${back + by}`);
      back += by;
      drafts.delete(earlier.id);
      show(earlier);
    }
  } catch (error) { say(error.message); }
  busy = false;
  draw();
}

async function refresh() {
  try {
    take(await ask("/api/tasks"));
  } catch (error) {
    if (task) return say(error.message);
    at("thanks").removeAttribute("data-text");
    at("thanks").textContent = error.message;
    at("thanks").hidden = false;
  }
}

/* 0: in place; 1: as large as the window; 2: three times that, at the pointer, on both sides alike. */
function zoom(level, event) {
  at("panes").classList.toggle("full", level > 0);
  at("panes").classList.toggle("deep", level > 1);
  if (event) point(event);
}
const zoomed = () => at("panes").classList.contains("full") + at("panes").classList.contains("deep");

function point(event) {
  const figure = event.target.closest("figure");
  if (!figure || zoomed() < 2) return;
  const box = figure.getBoundingClientRect();
  const part = (value) => `${Math.min(Math.max(value, 0), 1) * 100}%`;
  at("panes").style.setProperty("--x", part((event.clientX - box.left) / box.width));
  at("panes").style.setProperty("--y", part((event.clientY - box.top) / box.height));
}

function speak() {
  language = language === "en" ? "zh" : "en";
  kept("language", language);
  guide();
  draw();
}

function shade(theme) {
  document.documentElement.dataset.theme = theme;
  kept("theme", theme);
}
function turn() {
  const dark = document.documentElement.dataset.theme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  shade(dark ? "light" : "dark");
}

function guide() {
  const texts = TEXTS[language];
  at("meanings").replaceChildren(...AXES.flatMap((name) => [made("dt", texts[name]), made("dd", texts.ask[name])]));
  at("keys").replaceChildren(...texts.keys.map(([key, meaning]) => {
    const row = made("tr");
    row.append(made("td", key), made("td", meaning));
    return row;
  }));
}
function explain() {
  guide();
  draw();
  at("guide").showModal();
  kept("explained", "yes");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || at("guide").open) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const onButton = event.target.closest("button") && (key === "Enter" || key === " ");
  const actions = {
    Enter: next, " ": next, Backspace: () => step(1), u: () => step(1), z: () => zoom((zoomed() + 1) % 3), l: speak, t: turn,
    "?": explain, h: explain, Escape: () => (zoomed() ? zoom(0) : back && step(-back)),
  };
  if (onButton || (event.repeat && !(key in KEYS))) return;
  if (key in KEYS) answer(axis, KEYS[key], event.shiftKey);
  else if (key >= "1" && key <= "5") { axis = Number(key) - 1; draw(); }
  else if (key in actions) actions[key]();
  else return;
  event.preventDefault();
});
document.addEventListener("click", (event) => {
  if (event.detail) event.target.closest("button")?.blur(); // else Enter would press it again
  const { axis: name, choice } = event.target.closest("button")?.dataset || {};
  if (name) answer(AXES.indexOf(name), choice, false);
});
for (const side of ["left", "right"]) {
  at(side).addEventListener("click", (event) => zoom((zoomed() + 1) % 3, event));
  at(side).draggable = false;
}
at("panes").addEventListener("pointermove", point);
at("prompt").addEventListener("click", () => {
  if (!getSelection().toString()) at("prompt").classList.toggle("folded");
});
at("next").addEventListener("click", next);
at("back").addEventListener("click", () => step(1));
at("language").addEventListener("click", speak);
at("theme").addEventListener("click", turn);
at("help").addEventListener("click", explain);

if (kept("theme")) shade(kept("theme"));
draw();
refresh();
if (!kept("explained")) explain();
