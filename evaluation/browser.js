"use strict";
(() => {
  const data = JSON.parse(document.getElementById("examples-data").textContent);
  const place = document.getElementById("browser");
  const PAGE = 50;
  const state = { on: new Set(), words: "", page: 0, at: 0, found: [] };

  // Text is only ever set as text.
  const make = (tag, text, attributes = {}) => {
    const element = document.createElement(tag);
    if (text !== null && text !== undefined) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const plain = (x) => (typeof x === "number" ? String(Math.round(x * 1000) / 1000) : typeof x === "string" ? x : JSON.stringify(x));
  const flat = (x, prefix) =>
    x !== null && typeof x === "object" && !Array.isArray(x)
      ? Object.entries(x).flatMap(([k, v]) => flat(v, prefix ? `${prefix} / ${k}` : k))
      : [[prefix, x]];
  const facts = (pairs) => {
    const list = make("dl", null, { class: "facts" });
    for (const [name, value] of pairs) {
      const pair = make("div");
      pair.append(make("dt", name), make("dd", value === null ? "unscored" : plain(value)));
      list.append(pair);
    }
    return list;
  };

  // What is searched: everything said, and the record's own words.
  const searched = data.examples.map((e) =>
    [e.uid, e.gold, e.text || "", ...e.said.flatMap((s) => [s.by, s.answer || "", ...s.pieces.map((p) => p[1].map((r) => r[0]).join(""))])]
      .join("\n")
      .toLowerCase(),
  );

  const filters = make("div", null, { class: "filters", role: "group", "aria-label": "Filters" });
  const buttons = Object.entries(data.flags).map(([flag, meaning]) => {
    const button = make("button", null, { type: "button", "aria-pressed": "false", title: meaning, "data-flag": flag });
    button.addEventListener("click", () => {
      state.on.has(flag) ? state.on.delete(flag) : state.on.add(flag);
      button.setAttribute("aria-pressed", String(state.on.has(flag)));
      filter();
    });
    filters.append(button);
    return [flag, button];
  });
  const search = make("input", null, { type: "search", placeholder: "search", "aria-label": "Search in records and completions" });
  search.addEventListener("input", () => {
    state.words = search.value.toLowerCase().trim();
    filter();
  });
  const count = make("span", null, { class: "soft", role: "status" });
  filters.append(search, count);

  const side = make("div", null, { class: "list" });
  const list = make("ul", null, { role: "listbox", tabindex: "0", "aria-label": "Examples" });
  const pages = make("div", null, { class: "pages" });
  const back = make("button", "previous 50", { type: "button" });
  const on = make("button", "next 50", { type: "button" });
  const where = make("span", null, { class: "soft" });
  back.addEventListener("click", () => turn(-1));
  on.addEventListener("click", () => turn(1));
  pages.append(back, on, where);
  side.append(list, pages);
  const one = make("article", null, { class: "one", "aria-live": "polite" });
  place.append(filters, side, one);

  const holds = (i, flags) => flags.every((f) => data.examples[i].flags.includes(f)) && searched[i].includes(state.words);

  function filter() {
    const flags = [...state.on];
    state.found = [...data.examples.keys()].filter((i) => holds(i, flags));
    for (const [flag, button] of buttons) {
      // how many are left with this one, too
      const n = state.on.has(flag) ? state.found.length : state.found.filter((i) => data.examples[i].flags.includes(flag)).length;
      button.textContent = `${flag} ${n}`;
      button.disabled = n === 0 && !state.on.has(flag);
    }
    count.textContent = `${state.found.length} of ${data.examples.length}`;
    state.page = state.at = 0;
    draw();
  }

  function turn(by) {
    const last = Math.max(0, Math.ceil(state.found.length / PAGE) - 1);
    state.page = Math.min(last, Math.max(0, state.page + by));
    state.at = state.page * PAGE;
    draw();
  }

  function move(by) {
    if (!state.found.length) return;
    state.at = Math.min(state.found.length - 1, Math.max(0, state.at + by));
    state.page = Math.floor(state.at / PAGE);
    draw();
  }

  function draw() {
    const first = state.page * PAGE;
    const shown = state.found.slice(first, first + PAGE);
    list.replaceChildren(
      ...shown.map((i, k) => {
        const e = data.examples[i];
        const item = make("li", null, { role: "option", id: `example-${i}`, "aria-selected": String(first + k === state.at) });
        const said = e.said.map((s) => `${s.by} ${s.answer === null || s.answer === undefined ? s.fault || "-" : s.answer}`);
        item.append(make("span", e.uid), make("small", `gold ${e.gold}; ${said.slice(0, 3).join("; ")}`));
        item.addEventListener("click", () => {
          state.at = first + k;
          draw();
        });
        return item;
      }),
    );
    back.disabled = state.page === 0;
    on.disabled = first + PAGE >= state.found.length;
    where.textContent = shown.length ? `${first + 1} to ${first + shown.length} of ${state.found.length}` : "nothing left";
    const chosen = state.found[state.at];
    if (chosen === undefined) {
      list.removeAttribute("aria-activedescendant");
      one.replaceChildren(make("p", "No example has all of this.", { class: "missing" }));
      return;
    }
    list.setAttribute("aria-activedescendant", `example-${chosen}`);
    const item = document.getElementById(`example-${chosen}`);
    // within the list alone: the page itself stays where it is
    if (item.offsetTop < list.scrollTop + list.offsetTop) list.scrollTop = item.offsetTop - list.offsetTop;
    else if (item.offsetTop + item.offsetHeight > list.scrollTop + list.offsetTop + list.clientHeight)
      list.scrollTop = item.offsetTop + item.offsetHeight - list.offsetTop - list.clientHeight;
    show(data.examples[chosen]);
  }

  function player([mime, content]) {
    const kind = mime.split("/")[0];
    const source = `data:${mime};base64,${content}`;
    return kind === "image"
      ? make("img", null, { src: source, alt: "image of the record" })
      : make(kind, null, { src: source, controls: "", preload: "metadata", "aria-label": `${kind} of the record` });
  }

  function completion(said) {
    const section = make("section");
    const told = said.answer !== null && said.answer !== undefined ? said.answer : said.fault ? `no answer (${said.fault})` : "";
    const mark = said.right === true ? " ✓" : said.right === false ? " ✗" : "";
    section.append(make("h4", `${said.by}: ${told}${mark}`));
    if (said.fault) section.append(make("p", `Fault: ${said.fault}`, { class: "fault" }));
    section.append(facts([...Object.entries(said.parts), ...Object.entries(said.facts)]));
    for (const [name, runs] of said.pieces) {
      const piece = make("div", null, { class: name === null ? "stray" : `block ${name}` });
      if (name !== null) piece.append(make("b", name));
      for (const [text, ok] of runs)
        piece.append(ok === null ? document.createTextNode(text) : make("mark", text, { class: ok ? "yes" : "no" }));
      section.append(piece);
    }
    if (!said.pieces.length) section.append(make("p", "The completion is empty.", { class: "missing" }));
    return section;
  }

  function show(e) {
    const flags = make("p");
    for (const flag of e.flags) flags.append(make("span", flag, { class: "flag", title: data.flags[flag] }));
    const clips = make("div", null, { class: "clips" });
    clips.append(...e.clips.map((i) => player(data.clips[i])));
    const sides = make("div", null, { class: "sides" });
    sides.append(...e.said.map(completion));
    const text = e.text ? [make("blockquote", e.text)] : [];
    const lacks = e.lacks.map((sentence) => make("p", sentence, { class: "missing" }));
    one.replaceChildren(make("h3", `${e.uid}: gold ${e.gold}`), flags, clips, ...lacks, ...text, facts(flat(e.meta, "")), sides);
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === search) {
      if (event.key === "Escape") list.focus();
      return;
    }
    const arrows = document.activeElement === list ? { ArrowDown: 1, ArrowUp: -1, PageDown: PAGE, PageUp: -PAGE } : {};
    const by = { j: 1, k: -1, ...arrows }[event.key];
    if (by) move(by);
    else if (event.key === "/") search.focus();
    else if (event.key === "f") filters.querySelector("button:enabled, input").focus();
    else if (event.key === "p") {
      const clip = one.querySelector("video, audio");
      if (clip) clip.paused ? clip.play() : clip.pause();
    } else return;
    event.preventDefault();
  });
  filter();
})();
