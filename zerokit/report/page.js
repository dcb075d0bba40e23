// Reads out the values under the pointer. Without it the charts still show their axes and last values.
for (const data of document.querySelectorAll("figure.chart > script")) {
  const figure = data.parentElement;
  const plot = figure.querySelector(".plot");
  const hair = figure.querySelector(".hair");
  const tip = figure.querySelector(".tip");
  const axis = figure.querySelector(".x").dataset.axis;
  const series = JSON.parse(data.textContent);

  const nearest = (points, place) =>
    points.reduce((best, point) => (Math.abs(point[0] - place) < Math.abs(best[0] - place) ? point : best));

  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const place = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const anchor = nearest(series.flatMap((line) => line.points), place);
    tip.replaceChildren(`${axis} ${anchor[1]}`);
    for (const line of series) {
      const point = nearest(line.points, anchor[0]);
      const row = document.createElement("div");
      const mark = document.createElement("i");
      mark.style.background = `var(--${line.color})`;
      const where = point[1] === anchor[1] ? "" : ` at ${point[1]}`;
      row.append(mark, `${line.label}${where} `, Object.assign(document.createElement("b"), { textContent: point[2] ?? "not finite" }));
      tip.append(row);
    }
    hair.style.left = `${anchor[0] * 100}%`;
    tip.style.left = anchor[0] < 0.5 ? `calc(${anchor[0] * 100}% + 10px)` : "auto";
    tip.style.right = anchor[0] < 0.5 ? "auto" : `calc(${(1 - anchor[0]) * 100}% + 10px)`;
    hair.hidden = tip.hidden = false;
  });
  plot.addEventListener("pointerleave", () => {
    hair.hidden = tip.hidden = true;
  });
}
