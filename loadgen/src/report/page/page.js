"use strict";
(() => {
  const run = JSON.parse(document.getElementById("run").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 5"];
  const COLOURS = ["one", "two", "three", "four", "five"].map((name) => `var(--${name})`);
  const MARGIN = { top: 10, right: 14, bottom: 38, left: 74 };

  const element = (parent, name, attributes = {}, text) => {
    const isDrawing = parent.namespaceURI === SVG || name === "svg";
    const child = isDrawing ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) child.setAttribute(key, value);
    if (text !== undefined) child.textContent = text;
    parent.append(child);
    return child;
  };

  // Numbers with three digits, as the tables show them.
  const threeDigits = (value) =>
    value >= 100 || Number.isInteger(value) ? value.toFixed(0)
      : value >= 10 ? value.toFixed(1) : value.toFixed(2);
  const scaled = (value, base, units) => {
    let index = 0;
    while (index + 1 < units.length && value >= base) {
      value /= base;
      index += 1;
    }
    return `${threeDigits(value)} ${units[index]}`.trim();
  };
  const asTime = (nanos) => scaled(nanos, 1000, ["ns", "us", "ms", "s"]);
  const asBytes = (bytes) => scaled(bytes, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
  const asCount = (count) => Math.round(count).toLocaleString("en");
  const asShortCount = (count) => (count < 10000 ? asCount(count) : scaled(count, 1000, ["", "k", "M", "G"]));
  const asSeconds = (seconds) => `${Number(seconds.toFixed(3))} s`;

  // Ticks at round values: 1, 2 or 5 times a power of ten, or a power of two for bytes.
  const roundStep = (atLeast, isBinary) => {
    if (isBinary) return 2 ** Math.ceil(Math.log2(Math.max(atLeast, 1)));
    const power = 10 ** Math.floor(Math.log10(atLeast));
    return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= atLeast * 0.999);
  };
  const linearTicks = (from, to, count, isBinary) => {
    const step = roundStep((to - from) / count || 1, isBinary);
    const ticks = [];
    for (let at = Math.ceil(from / step); at * step <= to * (1 + 1e-9); at += 1) ticks.push(at * step);
    return ticks;
  };
  const decades = (from, to) => {
    const ticks = [];
    const factors = to / from < 300 ? [1, 2, 5] : [1];
    for (let power = Math.floor(Math.log10(from)); power <= Math.log10(to); power += 1) {
      for (const factor of factors) {
        const tick = factor * 10 ** power;
        if (tick >= from * 0.999 && tick <= to * 1.001) ticks.push(tick);
      }
    }
    return ticks;
  };

  // Where values of an axis lie. `low` and `high` are always inside.
  const linearScale = (values, isBinary) => {
    const most = Math.max(...values, isBinary ? 1024 : 1);
    // Whatever is counted comes in whole numbers.
    const step = Math.max(roundStep(most / 4, isBinary), 1);
    const high = Math.ceil(most / step) * step;
    const ticks = linearTicks(0, high, Math.round(high / step), isBinary);
    return { low: 0, high, ticks, place: (value) => value / high };
  };
  const logScale = (values) => {
    const positive = values.filter((value) => value > 0);
    const low = positive.length ? Math.min(...positive) : 1;
    const high = Math.max(...positive, low * 2);
    const bounds = [low / 1.2, high * 1.2].map(Math.log10);
    const place = (value) =>
      (Math.max(Math.log10(Math.max(value, 1e-9)), bounds[0]) - bounds[0]) / (bounds[1] - bounds[0]);
    return { low, high, ticks: decades(low / 1.2, high * 1.2), place };
  };

  const followers = [];
  const follow = (x, source) => followers.forEach((show) => show(x, source));

  // A chart: `series` hold `points` [x, y] in order; a step holds from its point to the next. Where y is null
  // there is nothing to draw.
  const chart = (host, { title, yTitle, y, format, tick = format, series, x, onPoint, height = 210 }) => {
    const figure = element(host, "figure");
    element(figure, "figcaption", {}, title);
    if (series.length > 1) {
      const legend = element(figure, "ul", { class: "legend" });
      series.forEach(({ name, look }) => {
        const item = element(legend, "li");
        const sample = element(item, "svg", { viewBox: "0 0 26 10", "aria-hidden": "true" });
        element(sample, "path", { d: "M0 5H26", class: "line", style: `stroke:${COLOURS[look]}`,
          "stroke-dasharray": DASHES[look] });
        item.append(name);
      });
    }
    const label = `${title}. ${yTitle}. ${x.title}. The tables below hold the same figures.`;
    const plot = element(figure, "svg", { class: "plot", tabindex: "0", role: "img", "aria-label": label });
    const tip = element(figure, "div", { class: "tip", hidden: "" });
    const spoken = element(figure, "div", { class: "spoken", "aria-live": "polite" });
    const stops = [...new Set(series.flatMap(({ points }) => points.map(([at]) => at)))]
      .sort((one, other) => one - other);
    const inWords = (value) => (value === null ? "nothing" : format(value));
    let width = 0;
    let toX = () => 0;
    let toY = () => 0;
    let cursor = null;

    const draw = () => {
      width = figure.clientWidth;
      const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
      toX = (value) => MARGIN.left + x.place(value) * inner.width;
      toY = (value) => MARGIN.top + (1 - y.place(value)) * inner.height;
      plot.replaceChildren();
      tip.hidden = true;
      plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
      plot.setAttribute("height", height);
      const bottom = MARGIN.top + inner.height;
      for (const { from, to, name } of x.bands) {
        element(plot, "rect", { class: "band", x: toX(from), y: MARGIN.top,
          width: Math.max(toX(to) - toX(from), 0), height: inner.height });
        if (toX(to) - toX(from) > 60) {
          element(plot, "text", { x: toX(from) + 5, y: MARGIN.top + 14 }, name);
        }
      }
      for (const value of y.ticks) {
        element(plot, "line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right,
          y1: toY(value), y2: toY(value) });
        element(plot, "text", { x: MARGIN.left - 8, y: toY(value) + 4, "text-anchor": "end" }, tick(value));
      }
      let free = -Infinity;
      for (const [value, name] of x.ticks(inner.width)) {
        if (toX(value) < free) continue;
        free = toX(value) + 8 * name.length + 10;
        element(plot, "line", { class: "grid", x1: toX(value), x2: toX(value), y1: MARGIN.top, y2: bottom + 4 });
        const middle = Math.min(toX(value), width - 4 * name.length);
        element(plot, "text", { x: middle, y: bottom + 16, "text-anchor": "middle" }, name);
      }
      element(plot, "text", { x: MARGIN.left + inner.width / 2, y: height - 5, "text-anchor": "middle" }, x.title);
      element(plot, "text", { "text-anchor": "middle",
        transform: `translate(13 ${MARGIN.top + inner.height / 2}) rotate(-90)` }, yTitle);
      for (const { points, isStep, look } of series) {
        let isDrawn = false;
        const path = points.map(([at, value]) => {
          const wasDrawn = isDrawn;
          isDrawn = value !== null;
          const left = toX(at).toFixed(1);
          if (!isDrawn) return wasDrawn && isStep ? `H${left}` : "";
          const top = toY(value).toFixed(1);
          if (!wasDrawn) return `M${left} ${top}`;
          return isStep ? `H${left}V${top}` : `L${left} ${top}`;
        });
        element(plot, "path", { d: path.join(""), class: "line", style: `stroke:${COLOURS[look]}`,
          "stroke-dasharray": DASHES[look] });
      }
      cursor = element(plot, "g");
    };

    // The last point that is not after `at`; of a line, the nearest one.
    const valueAt = ({ points, isStep }, at) => {
      let low = 0;
      let high = points.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (points[middle][0] <= at) low = middle + 1;
        else high = middle;
      }
      if (isStep) return points[Math.max(low - 1, 0)];
      const [before, after] = [points[Math.max(low - 1, 0)], points[Math.min(low, points.length - 1)]];
      return at - before[0] <= after[0] - at ? before : after;
    };

    const hide = () => {
      tip.hidden = true;
      cursor.replaceChildren();
    };
    const show = (at, isSource) => {
      cursor.replaceChildren();
      if (at === null) return hide();
      element(cursor, "line", { class: "cursor", x1: toX(at), x2: toX(at), y1: MARGIN.top,
        y2: height - MARGIN.bottom });
      const rows = series.map((one) => [one, valueAt(one, at)]).filter(([, point]) => point);
      for (const [one, [when, value]] of rows) {
        if (value === null) continue;
        element(cursor, "circle", { cx: toX(one.isStep ? at : when), cy: toY(value), r: 3.5,
          style: `fill:${COLOURS[one.look]}` });
      }
      if (!isSource) {
        tip.hidden = true;
        return null;
      }
      tip.replaceChildren();
      const table = element(tip, "table");
      element(table, "caption", {}, x.name(at));
      for (const [one, [, value]] of rows) {
        const row = element(table, "tr");
        element(row, "th", { scope: "row" }, one.name);
        element(row, "td", {}, inWords(value));
      }
      tip.hidden = false;
      const beside = toX(at) + 12;
      const left = beside + tip.offsetWidth > width ? toX(at) - tip.offsetWidth - 12 : beside;
      tip.style.left = `${Math.max(left, 0)}px`;
      const above = plot.getBoundingClientRect().top - figure.getBoundingClientRect().top;
      tip.style.top = `${above + MARGIN.top}px`;
      return rows.map(([one, [, value]]) => `${one.name} ${inWords(value)}`).join(", ");
    };
    const point = (at) => {
      const said = show(at, true);
      if (onPoint) onPoint(at, show);
      return said;
    };

    let index = 0;
    plot.addEventListener("pointermove", (event) => {
      const share = (event.offsetX - MARGIN.left) / (width - MARGIN.left - MARGIN.right);
      const at = x.value(Math.min(Math.max(share, 0), 1));
      index = stops.findLastIndex((stop) => stop <= at);
      point(at);
    });
    const leave = () => point(null);
    plot.addEventListener("pointerleave", leave);
    plot.addEventListener("blur", leave);
    plot.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: stops.length - 1 };
      if (event.key === "Escape") leave();
      if (!(event.key in moves) || !stops.length) return;
      event.preventDefault();
      index = Math.min(Math.max(moves[event.key], 0), stops.length - 1);
      spoken.textContent = `${x.name(stops[index])}: ${point(stops[index])}`;
    });
    draw();
    new ResizeObserver(() => {
      if (figure.clientWidth !== width) draw();
    }).observe(figure);
    return show;
  };

  // Each interval holds its value from its start to its end.
  const steps = (value) => {
    const points = run.intervals.map((interval) => [interval.start, value(interval)]);
    const last = run.intervals.at(-1);
    if (last) points.push([last.end, value(last)]);
    return points;
  };
  const samples = (name, value = (sample) => sample[name]) =>
    run.arena.filter((sample) => sample[name] !== null).map((sample) => [sample.at, value(sample)]);
  const valuesOf = (series) => series.flatMap(({ points }) => points.map(([, value]) => value)).filter((value) => value !== null);

  const drawOverTime = () => {
    const host = document.getElementById("time-charts");
    if (!run.intervals.length) {
      element(host, "p", {}, "The run was too short for a single interval.");
      return;
    }
    const end = run.intervals.at(-1).end;
    const warmUp = run.intervals.filter((interval) => interval.warm_up).at(-1);
    const axis = {
      title: "time since the load began (s)",
      place: (seconds) => seconds / end,
      value: (share) => share * end,
      name: asSeconds,
      bands: [{ from: 0, to: warmUp?.end ?? 0, name: "warm-up" },
        { from: Math.min(run.measured_until, end), to: end, name: "drain" }],
      ticks: (width) => linearTicks(0, end, Math.max(Math.floor(width / 80), 5))
        .map((value) => [value, String(Number(value.toFixed(3)))]),
    };
    const add = (settings) => {
      const shows = chart(host, {
        ...settings,
        x: axis,
        onPoint: (at, source) => follow(at, source),
      });
      followers.push((at, source) => {
        if (source !== shows) shows(at, false);
      });
    };
    const plain = (name, look, value) => ({ name, look, isStep: true, points: steps(value) });

    const isOpenLoop = run.intended.length > 0;
    const rate = [plain(isOpenLoop ? "achieved" : "requests/s", 0, (interval) => interval.rate)];
    if (isOpenLoop) rate.unshift({ name: "intended", look: 4, points: run.intended });
    add({ title: "Throughput", yTitle: "requests/s", series: rate, y: linearScale(valuesOf(rate)),
      format: asCount, tick: asShortCount });

    const names = ["p50", "p90", "p99", "p99.9", "max"];
    const answered = run.intervals.some((interval) => interval.latency[4] > 0);
    const times = names.map((name, look) => plain(name, look, (interval) => interval.latency[look] || null));
    if (answered) {
      add({ title: "Latency", yTitle: "time, log scale", series: times.reverse(), y: logScale(valuesOf(times)),
        format: asTime, height: 280 });
    }
    const inFlight = [plain("in flight", 0, (interval) => interval.in_flight)];
    add({ title: "Requests in flight", yTitle: "requests", series: inFlight, y: linearScale(valuesOf(inFlight)),
      format: asCount, tick: asShortCount, height: 150 });
    const failures = [plain("errors", 1, (interval) => interval.errors),
      plain("mismatches", 3, (interval) => interval.mismatches)];
    if (valuesOf(failures).some((count) => count > 0)) {
      add({ title: "Errors and mismatches", yTitle: "per interval", series: failures,
        y: linearScale(valuesOf(failures)), format: asCount, tick: asShortCount, height: 150 });
    }

    const memory = [
      { name: "whole arena", look: 4, points: samples("reserved") },
      { name: "in use", look: 0, points: samples("live") },
      { name: "largest free block", look: 1, points: samples("largest_free") },
    ].filter(({ points }) => points.length);
    if (memory.length) {
      add({ title: "Arena memory", yTitle: "bytes", series: memory, y: linearScale(valuesOf(memory), true),
        format: asBytes });
    }
    const waiters = [{ name: "waiters", look: 0, points: samples("waiters") }];
    if (waiters[0].points.length) {
      add({ title: "Arena waiters", yTitle: "waiters", series: waiters, y: linearScale(valuesOf(waiters)),
        format: asCount, tick: asShortCount, height: 150 });
    }
    const before = run.arena.find((sample) => sample.spills !== null)?.spills;
    const spills = [{ name: "spills", look: 0, points: samples("spills", (sample) => sample.spills - before) }];
    if (spills[0].points.length) {
      add({ title: "Arena spills since the load began", yTitle: "buffers", series: spills,
        y: linearScale(valuesOf(spills)), format: asCount, tick: asShortCount, height: 150 });
    }
  };

  // HdrHistogram's axis: each nine takes the same room, so that the tail is as wide as the rest.
  const drawDistribution = (id, distributions, title, none) => {
    const host = document.getElementById(id);
    const most = Math.max(...distributions.map(({ count }) => count), 0);
    if (!most) {
      element(host, "p", {}, none);
      return;
    }
    const end = Math.max(Math.log10(most), 1);
    const series = distributions.map(({ name, look, points, count }) => ({
      name, look, points: points.map(([quantile, nanos]) => [Math.min(-Math.log10(1 - quantile), Math.log10(count)), nanos]),
    }));
    const nameOf = (nines) => {
      if (nines === 0) return "0 %";
      const digits = Math.max(Math.ceil(nines) - 2, 0);
      return `${(100 * (1 - 10 ** -nines)).toFixed(digits)} %`;
    };
    const axis = {
      title: "percentile, as 1 / (1 - share)",
      place: (nines) => nines / end,
      value: (share) => share * end,
      name: (nines) => `${(100 * (1 - 10 ** -nines)).toFixed(Math.max(Math.ceil(nines), 1))} % took at most`,
      bands: [],
      ticks: () => [0, Math.log10(2), ...Array.from({ length: Math.floor(end) }, (_, index) => index + 1)]
        .map((nines) => [nines, nameOf(nines)]),
    };
    chart(host, { title, yTitle: "time, log scale", series, x: axis,
      y: logScale(valuesOf(series)), format: asTime, height: 300 });
  };

  drawOverTime();
  drawDistribution("distribution-chart", run.distributions, "Percentiles of the measured requests",
    "No measured request was answered.");
  drawDistribution("connects-chart", run.connects, "How long connections took to be made",
    "No connection was made.");
})();
