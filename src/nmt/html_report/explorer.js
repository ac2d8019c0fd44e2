"use strict";

/* The explorer: a list of sentences to search and sort, and one sentence whose words can be pointed at.
   Text reaches the page as text nodes only, so a sentence that holds HTML is shown as it is written. */

(() => {
  const report = JSON.parse(byId("report-data").textContent);
  const { models, sentences } = report;
  const PAGE = 40; // sentences added to the list at a time
  const PRINTED = { attention: 0.095, erasure: 0.5, gradient: 0.5 }; // smaller numbers stay off the heatmaps
  const MAPS = {
    attention: ["Attention", "attention weights when it wrote the word, in percent"],
    erasure: ["Erasure", "by how many nats the word’s log-probability falls without the source word"],
    gradient: ["Gradient × input", "the first-order guess of the same fall, in nats"],
  };
  const orders = makeOrders();
  const state = { order: [], listed: 0, current: -1, pinned: null, matrices: [] };

  /* ---- small helpers ---- */

  function byId(id) {
    return document.getElementById(id);
  }

  /** Make an element; `on…` entries are listeners, the rest attributes; children are nodes or texts. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  const inSource = (text) => make("span", { lang: report.source }, text);
  const anchor = (sentence) => `s-${sentence.id}`;
  const href = (sentence) => `#${encodeURIComponent(anchor(sentence))}`;
  const percent = (share) => `${Math.round(100 * share)}%`;
  const count = (number) => number.toLocaleString("en");

  function signed(nats) {
    const text = Math.abs(nats).toFixed(1);
    return text === "0.0" ? text : (nats < 0 ? "−" : "+") + text;
  }

  /** A matrix [T, S] out of its bytes; nothing is decoded before its sentence is shown. */
  function decode(packed, rows) {
    const [scale, text] = Array.isArray(packed) ? packed : [null, packed];
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const numbers = scale === null ? bytes : new Int8Array(bytes.buffer);
    const unit = scale === null ? 1 / 255 : scale / 127;
    const width = rows ? numbers.length / rows : 0;
    return Array.from({ length: rows }, (_, row) =>
      Array.from(numbers.subarray(row * width, (row + 1) * width), (number) => number * unit),
    );
  }

  /* ---- search and order ---- */

  function makeOrders() {
    const found = [
      { label: "Order of the test set", value: (_, place) => place },
      { label: `Length in ${report.unit}`, value: (sentence) => sentence.length },
    ];
    const measures = [
      ["chrf", "chrF"],
      ["score", "score"],
      ["entropy", "entropy of its attention weights"],
    ];
    models.forEach((model, m) => {
      for (const [key, name] of measures) {
        if (sentences.some((sentence) => key in sentence.models[m])) {
          found.push({ label: `${name}, ${model.name}`, value: (sentence) => sentence.models[m][key] });
        }
      }
      if (sentences.some((sentence) => sentence.models[m].lost)) {
        const value = (sentence) => (sentence.models[m].lost ? 0 : 1);
        found.push({ label: `first where attention and translation both fail, ${model.name}`, value });
      }
    });
    const baseline = models.findIndex((model) => model.name === report.baseline);
    models.forEach((model, m) => {
      if (m !== baseline && baseline >= 0 && sentences.some((sentence) => "chrf" in sentence.models[m])) {
        const value = (sentence) => sentence.models[m].chrf - sentence.models[baseline].chrf;
        found.push({ label: `lead in chrF, ${model.name} over ${report.baseline}`, value });
      }
    });
    return found;
  }

  const plain = (text) => text.normalize("NFKC").toLowerCase();

  /** All that a search looks at in a sentence, made at its first use. */
  function searchable(sentence) {
    sentence.searchable ??= plain(
      [
        sentence.id,
        sentence.source,
        sentence.words.join(""),
        ...sentence.references,
        ...sentence.models.map((model) => model.text),
      ].join("\n"),
    );
    return sentence.searchable;
  }

  /** Sort and filter by what the form says, and write the list anew. */
  function arrange() {
    const wanted = plain(byId("search").value.trim());
    const { value } = orders[byId("sort").value];
    const direction = byId("descending").getAttribute("aria-pressed") === "true" ? -1 : 1;
    const keyed = sentences.map((sentence, place) => [value(sentence, place), place]);
    const present = (key) => key !== undefined && !Number.isNaN(key);
    state.order = keyed
      .filter(([, place]) => searchable(sentences[place]).includes(wanted))
      .sort(([a, i], [b, j]) => present(b) - present(a) || (present(a) ? direction * (a - b) : 0) || i - j)
      .map(([, place]) => place);
    const all = state.order.length === sentences.length;
    byId("found").textContent = all
      ? `${count(sentences.length)} sentences`
      : `${count(state.order.length)} of ${count(sentences.length)} sentences`;
    byId("list").replaceChildren();
    state.listed = 0;
    listMore();
    showNeighbours();
  }

  function listMore() {
    const places = state.order.slice(state.listed, state.listed + PAGE);
    byId("list").append(...places.map(listItem));
    state.listed += places.length;
    byId("more").hidden = state.listed >= state.order.length;
  }

  function listItem(place) {
    const sentence = sentences[place];
    const facts = [`${sentence.length} ${report.unit}`];
    const scored = sentence.models.every((model) => "chrf" in model);
    if (scored) facts.push(`chrF ${sentence.models.map((model) => Math.round(model.chrf)).join(" / ")}`);
    const link = make(
      "a",
      { href: href(sentence), "data-place": place, "aria-current": place === state.current ? "true" : null },
      make("span", { class: "text", lang: report.source }, sentence.source),
      make("span", { class: "facts" }, facts.join(" · ")),
    );
    return make("li", {}, link);
  }

  /* ---- one sentence ---- */

  function show(place) {
    state.current = place;
    state.pinned = null;
    const sentence = sentences[place];
    state.matrices = sentence.models.map((model) => {
      const names = Object.keys(MAPS).filter((name) => name in model);
      return Object.fromEntries(names.map((name) => [name, decode(model[name], model.words.length)]));
    });
    const attendingFirst = [...models.keys()].sort((a, b) => models[b].attends - models[a].attends);
    const below = attendingFirst.map((m) => maps(sentence, m)).filter(Boolean);
    byId("sentence").replaceChildren(heading(sentence, place), texts(sentence), reader(sentence), ...below);
    for (const link of byId("list").querySelectorAll("a")) {
      if (Number(link.dataset.place) === place) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    showNeighbours();
    point(null);
  }

  function heading(sentence, place) {
    return make(
      "header",
      { id: anchor(sentence) },
      make("h3", { id: "sentence-title", tabindex: "-1" }, `Sentence ${count(place + 1)} of ${count(sentences.length)}`),
      make(
        "nav",
        { "aria-label": "Neighbouring sentences" },
        make("a", { id: "previous", rel: "prev" }, "Previous"),
        make("a", { id: "next", rel: "next" }, "Next"),
      ),
    );
  }

  /** Previous and next follow the list's order; at its ends the link leads nowhere and says so. */
  function showNeighbours() {
    const at = state.order.indexOf(state.current);
    for (const [id, place] of [["previous", state.order[at - 1]], ["next", state.order[at + 1]]]) {
      const link = byId(id);
      if (!link) continue;
      if (place === undefined) {
        link.removeAttribute("href");
        link.setAttribute("aria-disabled", "true");
      } else {
        link.setAttribute("href", href(sentences[place]));
        link.removeAttribute("aria-disabled");
      }
    }
  }

  function texts(sentence) {
    const several = sentence.references.length > 1;
    return make(
      "dl",
      { class: "texts" },
      make("dt", {}, "Source"),
      make("dd", { lang: report.source }, sentence.source, credit(sentence.ids[0])),
      make("dt", {}, several ? "References" : "Reference"),
      ...sentence.references.map((text, i) => make("dd", { lang: report.target }, text, credit(sentence.ids[i + 1]))),
    );
  }

  /** The page of a sentence, where its author is named. */
  function credit(id) {
    if (!id || !report.credit) return null;
    const attributes = { class: "credit", href: report.credit + encodeURIComponent(id), rel: "external noreferrer", lang: "en" };
    return make("a", attributes, `#${id}`);
  }

  function reader(sentence) {
    const cells = [...sentence.words, null].map((word) =>
      make(
        "li",
        { class: word === null ? "end" : null },
        make("span", { class: "word", lang: word === null ? "en" : null }, word ?? "end"),
        make("span", { class: "look", lang: "en" }),
        make("span", { class: "need", lang: "en" }),
      ),
    );
    return make(
      "section",
      { class: "reader", "aria-label": "Which source words a word looked at" },
      make("ol", { id: "source-words", lang: report.source, "aria-label": "Source words, as the models read them" }, ...cells),
      ...sentence.models.map((_, m) => translation(sentence, m)),
      make("p", { id: "readout", role: "status" }), // last, for its length changes and nothing may move under the pointer
    );
  }

  function translation(sentence, m) {
    const { text, chrf, score, entropy } = sentence.models[m];
    const facts = [];
    if (chrf !== undefined) facts.push(`chrF ${chrf.toFixed(1)}`);
    if (score !== undefined) facts.push(`score ${score.toFixed(2).replace("-", "−")}`);
    if (entropy !== undefined) facts.push(`entropy ${entropy.toFixed(2)} nats`);
    return make(
      "div",
      { class: `translation series-${m}` },
      make("h4", { id: `model-${m}` }, models[m].name, make("span", { class: "facts" }, facts.join(" · "))),
      Object.keys(state.matrices[m]).length && text ? line(sentence, m) : make("p", { class: "line", lang: report.target }, text || "(nothing)"),
    );
  }

  /** A translation whose words are buttons: one stop of the Tab key, arrow keys go from word to word. */
  function line(sentence, m) {
    const { text, words } = sentence.models[m];
    const row = make("div", { class: "line", role: "toolbar", lang: report.target, "aria-labelledby": `model-${m}` });
    let from = 0;
    words.forEach((word, t) => {
      const at = text.indexOf(word, from);
      const start = at < 0 ? from : at;
      const gap = text.slice(from, start) || (at < 0 ? " " : "");
      row.append(gap, wordButton(m, t, word));
      from = at < 0 ? from : at + word.length;
    });
    row.append(text.slice(from));
    return row;
  }

  function wordButton(m, t, word) {
    const attributes = { type: "button", class: "target", "data-model": m, "data-word": t, "aria-pressed": "false" };
    return make("button", { ...attributes, tabindex: t ? "-1" : "0" }, word);
  }

  /* ---- heatmaps ---- */

  function maps(sentence, m) {
    const names = Object.keys(state.matrices[m]);
    if (!names.length || !sentence.models[m].words.length || !sentence.words.length) return null;
    const [title, ...drawn] = [make("h4", { id: `maps-${m}` }, `${models[m].name}, word by word`), ...names.map((name) => heatmap(sentence, m, name))];
    return make(
      "section",
      { class: `maps series-${m}`, "aria-labelledby": `maps-${m}` },
      title,
      make("div", { class: "side-by-side" }, ...drawn),
    );
  }

  function heatmap(sentence, m, name) {
    const matrix = state.matrices[m][name];
    const columns = name === "attention" ? [...sentence.words, null] : sentence.words;
    const label = `map-${m}-${name}`;
    const tops = columns.map((word) =>
      make(
        "th",
        { scope: "col", lang: word === null ? "en" : report.source },
        make("span", { class: [...(word ?? "end")].length > 1 ? "tall" : null }, word ?? "end"),
      ),
    );
    const largest = name === "attention" ? 1 : Math.max(3, ...matrix.flat().map(Math.abs));
    const rows = matrix.map((values, t) =>
      make(
        "tr",
        { "data-model": m, "data-word": t },
        make("th", { scope: "row", lang: report.target }, sentence.models[m].words[t]),
        ...values.map((value) => cell(value, largest, name)),
      ),
    );
    const [title, meaning] = MAPS[name];
    return make(
      "figure",
      { class: `map ${name}` },
      make("figcaption", { id: label }, make("b", {}, title), ` ${meaning}`),
      make(
        "div",
        { class: "scroll", role: "region", tabindex: "0", "aria-labelledby": `maps-${m} ${label}` },
        make("table", {}, make("thead", {}, make("tr", {}, make("td"), ...tops)), make("tbody", {}, ...rows)),
      ),
    );
  }

  function cell(value, largest, name) {
    const text = name === "attention" ? String(Math.round(100 * value)) : signed(value);
    const printed = Math.abs(value) >= PRINTED[name];
    const box = make("td", { class: value < 0 ? "harm" : null }, printed ? text : make("span", { class: "unseen" }, text));
    box.style.setProperty("--weight", (Math.abs(value) / largest).toFixed(3));
    return box;
  }

  /* ---- pointing at a word ---- */

  /** Show what a target word looked at and needed; `null` falls back on the pinned one, the focused one, or none. */
  function point(word) {
    const { model, place } = word || state.pinned || focused() || { model: -1, place: -1 };
    const look = state.matrices[model]?.attention?.[place];
    const need = (state.matrices[model]?.erasure ?? state.matrices[model]?.gradient)?.[place];
    [...byId("source-words").children].forEach((item, s) => paintSource(item, look?.[s], need?.[s]));
    for (const part of byId("sentence").querySelectorAll("[data-word]")) {
      const here = Number(part.dataset.model) === model && Number(part.dataset.word) === place;
      part.classList.toggle("pointed", here);
    }
    byId("readout").replaceChildren(...readout(model, place, look, need));
  }

  function paintSource(item, look, need) {
    item.style.setProperty("--weight", (look ?? 0).toFixed(3));
    item.style.setProperty("--need-weight", Math.min(1, Math.max(0, need ?? 0) / 5).toFixed(3));
    item.querySelector(".look").textContent = look === undefined ? "" : percent(look);
    item.querySelector(".need").textContent = need === undefined ? "" : signed(need);
  }

  /** One sentence for eyes and screen readers alike. */
  function readout(model, place, look, need) {
    if (model < 0) {
      const some = state.matrices.some((one) => Object.keys(one).length);
      return [some ? "Point at a word of a translation, or Tab to it and go on with the arrow keys; Enter holds it." : ""];
    }
    const sentence = sentences[state.current];
    const name = (s) => (s < sentence.words.length ? inSource(sentence.words[s]) : "the end of the source");
    const ranked = (values, least) => [...values.keys()].filter((s) => values[s] >= least).sort((a, b) => values[b] - values[a]);
    const word = make("span", { lang: report.target }, sentence.models[model].words[place]);
    const parts = [make("b", {}, models[model].name), ", “", word, "”: "];
    if (look) {
      const seen = ranked(look, PRINTED.attention).slice(0, 3);
      parts.push("looked at ");
      seen.forEach((s, i) => parts.push(i ? ", " : "", name(s), ` ${percent(look[s])}`));
      parts.push(seen.length ? "" : "nothing in particular", need ? "; " : ".");
    }
    if (need) {
      const [first] = ranked(need, PRINTED.erasure);
      if (first === undefined) parts.push("needed no single source word.");
      else parts.push("needed ", name(first), ` most (${signed(need[first])} nats).`);
    }
    return parts;
  }

  const wordOf = (node) => {
    const part = node instanceof Element ? node.closest("[data-word]") : null;
    return part && { model: Number(part.dataset.model), place: Number(part.dataset.word) };
  };
  const focused = () => document.activeElement.matches("button.target") && wordOf(document.activeElement);
  const same = (a, b) => a && b && a.model === b.model && a.place === b.place;

  function pin(word) {
    state.pinned = same(state.pinned, word) ? null : word;
    for (const button of byId("sentence").querySelectorAll("button.target")) {
      button.setAttribute("aria-pressed", String(Boolean(same(state.pinned, wordOf(button)))));
    }
    point(word);
  }

  /** Arrow keys, Home and End inside a translation. */
  function step(event) {
    const button = event.target.closest("button.target");
    if (event.key === "Escape" && state.pinned) pin(state.pinned);
    if (!button) return;
    const all = [...button.parentElement.querySelectorAll("button.target")];
    const at = all.indexOf(button);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (next === undefined || !all[next]) return;
    event.preventDefault();
    all[next].focus();
  }

  /* ---- from link to sentence ---- */

  /** The sentence that the address names, or -1. */
  function addressed() {
    let id = location.hash.slice(1);
    try {
      id = decodeURIComponent(id);
    } catch {
      return -1; // a stray percent sign: no address of ours
    }
    return sentences.findIndex((sentence) => anchor(sentence) === id);
  }

  function followAddress() {
    const place = addressed();
    if (place < 0) return;
    show(place);
    const title = byId("sentence-title");
    title.focus({ preventScroll: true });
    const { top } = title.getBoundingClientRect();
    if (top < 0 || top > innerHeight / 2) byId("sentence").scrollIntoView();
  }

  function walkList(event) {
    const item = event.target.closest("li");
    const next = { ArrowDown: item?.nextElementSibling, ArrowUp: item?.previousElementSibling }[event.key];
    if (!next) return;
    event.preventDefault();
    next.querySelector("a").focus();
  }

  function turn(event) {
    const button = event.currentTarget;
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    arrange();
  }

  function start() {
    byId("sort").append(...orders.map(({ label }, i) => make("option", { value: i }, label)));
    byId("finder").addEventListener("submit", (event) => event.preventDefault());
    byId("search").addEventListener("input", arrange);
    byId("sort").addEventListener("change", arrange);
    byId("descending").addEventListener("click", turn);
    byId("more").addEventListener("click", () => {
      const before = state.listed;
      listMore();
      byId("list").children[before]?.querySelector("a").focus();
    });
    byId("list").addEventListener("keydown", walkList);
    const sentence = byId("sentence");
    sentence.addEventListener("pointerover", (event) => event.pointerType !== "touch" && point(wordOf(event.target)));
    sentence.addEventListener("pointerleave", () => point(null));
    sentence.addEventListener("focusin", (event) => {
      const button = event.target.closest("button.target");
      if (!button) return;
      for (const one of button.parentElement.querySelectorAll("button.target")) one.tabIndex = one === button ? 0 : -1;
      point(wordOf(button));
    });
    sentence.addEventListener("focusout", () => point(null));
    sentence.addEventListener("click", (event) => event.target.closest("button.target") && pin(wordOf(event.target)));
    sentence.addEventListener("keydown", step);
    addEventListener("hashchange", followAddress);
    arrange();
    if (addressed() < 0) show(state.order[0]);
    else followAddress();
  }

  start();
})();
