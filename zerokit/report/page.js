// Reads out charts under the pointer and by the keyboard, and draws lines over other axes, smoothed or logarithmic.
// Without it the charts still show their axes and last values.
const START = { x: "step", log: false, smooth: 0 };
const UNITS = { step: "step", tokens: "tokens", seconds: "time" };
const KEPT = "zerokit report";
const GAP = 0.075;

function stored() {
  try {
    return { ...START, ...JSON.parse(sessionStorage.getItem(KEPT)) };
  } catch {
    return { ...START };
  }
}

const settings = stored();
const make = (name, values = {}, ...children) => {
  const element = Object.assign(document.createElement(name), values);
  element.append(...children);
  return element;
};
const nearest = (points, place) =>
  points.reduce((best, point) => (Math.abs(point[0] - place) < Math.abs(best[0] - place) ? point : best));

function format(value) {
  const size = Math.abs(value);
  if (value && (size >= 1e15 || size < 1e-3)) return value.toExponential(2).replace(/\.?0+e\+?/, "e");
  for (const [unit, sign] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (size >= (sign === "k" ? 1e4 : unit)) return `${Number((value / unit).toPrecision(4))}${sign}`;
  return `${Number(value.toPrecision(4))}`;
}

// Scales: {at(value) from 0 to 1, ticks, log}.
function roundStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * (1 - 1e-9)) * power;
}

function linear(low, high, wide, count) {
  if (!(high > low)) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const step = roundStep((high - low) / count);
  const [first, last] = wide ? [Math.floor(low / step + 1e-9), Math.ceil(high / step - 1e-9)]
    : [Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)];
  const ticks = Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  if (wide) [low, high] = [first * step, last * step];
  return { at: (value) => (value - low) / (high - low), ticks };
}

function logarithmic(values) {
  const margin = (Math.max(...values) / Math.min(...values)) ** 0.03 || 1.1;
  const low = Math.min(...values) / Math.max(margin, 1.01), high = Math.max(...values) * Math.max(margin, 1.01);
  const powers = Array.from({ length: 640 }, (_, i) => i - 320).filter((p) => 10 ** (p + 1) >= low && 10 ** p <= high);
  let ticks = [];
  for (const factors of [[1, 1.5, 2, 3, 4, 5, 6, 8], [1, 2, 5], [1]]) {
    ticks = powers.flatMap((power) => factors.map((factor) => factor * 10 ** power)).filter((t) => t >= low && t <= high);
    if (ticks.length <= 7) break;
  }
  const every = Math.ceil(ticks.length / 7) || 1;
  return { at: (value) => Math.log(value / low) / Math.log(high / low), ticks: ticks.filter((_, i) => i % every === 0) };
}

// A mean that forgets the past by `weight` per point, not drawn towards 0 at its start.
function smoothed(values, weight) {
  let mean = 0, share = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = weight * mean + (1 - weight) * value;
    share = weight * share + 1 - weight;
    return mean / share;
  });
}

class Chart {
  constructor(figure, data) {
    Object.assign(this, { figure, data, plot: figure.querySelector(".plot"), tip: figure.querySelector(".tip") });
    this.hair = figure.querySelector(".hair");
    this.parts = [...figure.querySelectorAll(".y, .x, .plot > svg")].map((part) => [part, part.innerHTML]);
    this.marks = [...this.plot.querySelectorAll(":scope > i, .dot, .end")];
    this.x = figure.querySelector(".x");
    this.axis = this.x.dataset.axis;
    this.named = this.plot.querySelector(".end") !== null;
    this.restore();
    this.listen();
  }

  // The picture as it came, over steps.
  restore() {
    this.drawn?.forEach((mark) => mark.remove());
    this.drawn = [];
    for (const [part, inside] of this.parts) part.innerHTML = inside;
    for (const mark of this.marks) this.plot.insertBefore(mark, this.hair);
    this.x.dataset.axis = this.axis;
    this.lines = this.data.map((line) => ({ ...line, points: line.points.map((point) => [point[0], point[1], point[2]]) }));
    this.spell = (value) => `${this.axis} ${value}`;
  }

  can(axis) {
    return this.axis === "step" && (axis === "step" || this.data.every((line) => line.places.includes(axis)));
  }

  update() {
    this.hide();
    this.restore();
    const x = this.can(settings.x) ? settings.x : "step";
    if (this.axis === "step" && (x !== "step" || settings.log || settings.smooth)) this.draw(x);
  }

  draw(axis) {
    const column = (line) => (axis === "step" ? 1 : 4 + line.places.indexOf(axis));
    const courses = this.data.map((line) => {
      const points = line.points.filter((point) => Number.isFinite(point[column(line)]));
      const raw = points.map((point) => point[3]);
      const values = settings.smooth && !line.dots ? smoothed(raw, settings.smooth) : raw;
      return { line, xs: points.map((point) => point[column(line)]), raw, values };
    });
    const xs = courses.flatMap((course) => course.xs);
    const shown = courses.flatMap((course) => [...course.values, ...course.raw]).filter((value) => value !== null);
    if (!xs.length || !shown.length) return;
    const log = settings.log && shown.some((value) => value > 0);
    const positive = shown.filter((value) => value > 0);
    const zero = this.figure.dataset.zero === "1" ? [0] : [];
    const low = Math.min(...shown, ...zero), high = Math.max(...shown, ...zero);
    const up = log ? logarithmic(positive) : linear(low, high, true, 4);
    const span = Math.max(...xs);
    const [size, unit] = axis !== "seconds" ? [1, UNITS[axis]] : span < 180 ? [1, "s"] : span < 10800 ? [60, "min"] : [3600, "h"];
    const across = linear(Math.min(...xs) / size, span / size, false, 6);
    const place = (value) => across.at(value / size);
    const drawable = (value) => value !== null && (!log || value > 0);

    this.marks.forEach((mark) => mark.remove());
    const label = (side) => (tick, scale) => {
      const text = make("span", { textContent: format(tick) });
      text.style[side] = `${scale.at(tick) * 100}%`;
      return text;
    };
    this.x.replaceChildren(...across.ticks.map((tick) => label("left")(tick, across)));
    this.figure.querySelector(".y").replaceChildren(...up.ticks.map((tick) => label("bottom")(tick, up)));
    this.x.dataset.axis = unit;
    const add = (mark, style) => {
      for (const [name, value] of Object.entries(style)) mark.style.setProperty(name, value);
      this.plot.insertBefore(mark, this.hair);
      this.drawn.push(mark);
    };
    for (const tick of up.ticks) add(make("i"), { bottom: `${up.at(tick) * 100}%` });

    const svg = this.plot.querySelector("svg");
    svg.replaceChildren();
    const stroke = (values, course, opacity) => {
      let pen = "M", path = "";
      values.forEach((value, i) => {
        if (drawable(value)) path += `${pen}${place(course.xs[i]) * 1000} ${(1 - up.at(value)) * 1000}`;
        pen = drawable(value) ? "L" : "M";
      });
      const element = document.createElementNS(svg.namespaceURI, "path");
      element.setAttribute("d", path);
      element.style.cssText = `stroke:var(--${course.line.color});stroke-dasharray:${course.line.dash};opacity:${opacity}`;
      svg.append(element);
    };
    const ends = [];
    for (const course of courses) {
      if (course.values !== course.raw) stroke(course.raw, course, 0.3);
      stroke(course.values, course, 1);
      const last = course.values.filter(drawable).at(-1);
      if (last !== undefined) ends.push([up.at(last), last, course.line]);
      if (!course.line.dots && course.xs.length > 1) continue;
      course.values.forEach((value, i) => {
        const style = { left: `${place(course.xs[i]) * 100}%`, bottom: `${up.at(value) * 100}%`, "--ink": `var(--${course.line.color})` };
        if (drawable(value)) add(make("b", { className: "dot" }), style);
      });
    }
    let floor = -Infinity;
    for (const [at, value, line] of this.named ? ends.sort((a, b) => a[0] - b[0]) : []) {
      floor = Math.max(at, floor);
      const name = this.data.length > 1 ? [make("span", { textContent: `${line.label} ` })] : [];
      const style = { bottom: `${floor * 100}%`, "--ink": `var(--${line.color})` };
      add(make("span", { className: "end" }, ...name, make("b", { textContent: format(value) })), style);
      floor += GAP;
    }
    this.lines = courses.map((course) => ({
      ...course.line,
      points: course.xs.map((x, i) => [place(x), x / size, course.values[i] === null ? null : format(course.values[i])]),
    }));
    this.spell = (value) => (axis === "step" ? `step ${value}` : `${format(value)} ${unit}`);
  }

  listen() {
    const { plot } = this;
    const follow = (event) => {
      const box = plot.getBoundingClientRect();
      this.show(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
    };
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("pointerleave", () => this.hide());
    plot.tabIndex = 0;
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-label", `${this.figure.querySelector("figcaption b").textContent}: arrow keys read out values`);
    this.figure.querySelector(".frame").removeAttribute("role");
    this.tip.setAttribute("role", "status");
    plot.addEventListener("focus", () => plot.matches(":focus-visible") && this.show(this.place ?? 1));
    plot.addEventListener("blur", () => this.hide());
    plot.addEventListener("keydown", (event) => this.press(event));
  }

  press(event) {
    const places = [...new Set(this.lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
    const here = places.indexOf(nearest(places.map((place) => [place]), this.place ?? 1)[0]);
    const to = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: places.length - 1 }[event.key];
    if (event.key === "Escape") this.hide();
    if (to === undefined) return;
    event.preventDefault();
    this.show(places[Math.min(places.length - 1, Math.max(0, to))]);
  }

  show(place) {
    const { tip, hair } = this;
    const known = this.lines.filter((line) => line.points.length);
    const anchor = nearest(known.flatMap((line) => line.points), place);
    tip.replaceChildren(this.spell(anchor[1]));
    for (const line of known) {
      const point = nearest(line.points, anchor[0]);
      const mark = make("i");
      mark.style.background = `var(--${line.color})`;
      const where = point[1] === anchor[1] ? "" : ` at ${this.spell(point[1]).replace("step ", "")}`;
      tip.append(make("div", {}, mark, `${line.label}${where} `, make("b", { textContent: point[2] ?? "not finite" })));
    }
    hair.style.left = `${anchor[0] * 100}%`;
    tip.style.left = anchor[0] < 0.5 ? `calc(${anchor[0] * 100}% + 10px)` : "auto";
    tip.style.right = anchor[0] < 0.5 ? "auto" : `calc(${(1 - anchor[0]) * 100}% + 10px)`;
    hair.hidden = tip.hidden = false;
    this.place = anchor[0];
  }

  hide() {
    this.hair.hidden = this.tip.hidden = true;
  }
}

// Points of a scatter and bars say what they are when the pointer or the keyboard is on them.
function tells(element, host, text) {
  const tip = make("div", { className: "tip", hidden: true, textContent: text });
  tip.setAttribute("role", "status");
  host.append(tip);
  element.tabIndex = 0;
  const show = () => (tip.hidden = false);
  const hide = () => (tip.hidden = true);
  element.addEventListener("pointerenter", show);
  element.addEventListener("focus", show);
  element.addEventListener("pointerleave", hide);
  element.addEventListener("blur", hide);
  element.addEventListener("keydown", (event) => event.key === "Escape" && hide());
}

for (const dot of document.querySelectorAll(".scatter .dot")) {
  tells(dot, dot.parentElement, dot.title);
  dot.setAttribute("aria-label", dot.title);
  dot.setAttribute("role", "img");
}
for (const row of document.querySelectorAll(".bars .row")) {
  const parts = [...row.querySelectorAll("rect > title")].map((title) => title.textContent);
  if (parts.length) tells(row, row, `${row.querySelector(".name").textContent}: ${parts.join(", ")}`);
}

const charts = [...document.querySelectorAll("figure.chart > script")].map(
  (data) => new Chart(data.parentElement, JSON.parse(data.textContent)),
);
const form = document.querySelector(".controls");
if (form && charts.some((chart) => chart.axis === "step")) {
  const axes = Object.keys(UNITS).filter((axis) => charts.some((chart) => chart.can(axis)));
  if (!axes.includes(settings.x)) settings.x = "step";
  for (const option of [...form.x.options]) if (!axes.includes(option.value)) option.remove();
  Object.assign(form.x, { value: settings.x });
  Object.assign(form.log, { checked: settings.log });
  Object.assign(form.smooth, { value: settings.smooth });
  form.hidden = false;
  form.addEventListener("input", () => {
    Object.assign(settings, { x: form.x.value, log: form.log.checked, smooth: Number(form.smooth.value) });
    try {
      sessionStorage.setItem(KEPT, JSON.stringify(settings));
    } catch {
      // pages of the file system may have no storage; the choice lasts until the page is left
    }
    charts.forEach((chart) => chart.update());
  });
  charts.forEach((chart) => chart.update());
}

// A run that goes on writes its page again and again.
const live = document.body.dataset.live;
if (live) {
  const again = () => (document.querySelector(".tip:not([hidden])") ? setTimeout(again, 1000) : location.reload());
  setTimeout(again, Number(live) * 1000);
}
