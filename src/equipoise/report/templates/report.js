(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("js");
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const text = (omega) => String(+omega.toFixed(3)).replace("-", "−");

  // The same signs as the numbers written by the report itself: a true minus, none at zero.
  const signed = (value) => {
    if (value === null) return "–";
    const digits = Math.abs(value).toFixed(2);
    return (+digits === 0 ? "" : value > 0 ? "+" : "−") + digits;
  };
  const nearest = (list, omega) =>
    list.reduce((best, value, i) => (Math.abs(value - omega) < Math.abs(list[best] - omega) ? i : best), 0);
  const percent = (share) => `${100 * share}%`;

  function showScores(box, scores, row) {
    for (const line of all("[data-score]", box)) {
      const score = scores[line.dataset.score][row];
      line.querySelector('[data-text="estimate"]').textContent = score ? score[3] : "–";
      line.querySelector('[data-text="interval"]').textContent = score ? score[4] : "";
      line.querySelector('[data-text="plug-in"]').textContent = score ? score[5] : "";
      const range = line.querySelector(".now.range");
      if (!range) continue;
      const spot = line.querySelector(".now.spot");
      range.hidden = spot.hidden = !score;
      if (!score) continue;
      range.style.left = percent(score[1] ?? score[0]);
      range.style.right = percent(1 - (score[2] ?? score[0]));
      spot.style.left = percent(score[0]);
    }
  }

  // Every share; of many groups (`named`) the largest, with its name.
  function sharesText(shares, named) {
    const digits = shares.map((share) => share.toFixed(2));
    const largest = shares.indexOf(Math.max(...shares));
    return named.length ? `${digits[largest]} ${named[largest]}` : digits.join(" · ");
  }

  function showBars(box, study, row) {
    const mode = box.querySelector('.choice input:checked')?.value ?? "probability";
    const bars = study.bars[mode];
    const before = study.base === null ? null : bars[study.base];
    all(".bars > li", box).forEach((line, i) => {
      const value = bars[row][i];
      if (line.querySelector(".strips")) {
        const [first, last] = [line.querySelector(".strip:not(.now)"), line.querySelector(".strip.now")];
        [[first, before && before[i]], [last, value]].forEach(([strip, shares]) => {
          if (strip && shares) all("i", strip).forEach((part, k) => { part.style.width = percent(shares[k]); });
        });
        line.querySelector(".value").textContent = value ? sharesText(value, study.named) : "–";
        return;
      }
      const fill = line.querySelector(".fill");
      fill.style.setProperty("--v", value ?? 0);
      fill.className = `fill ${(value ?? 0) >= 0 ? "pro" : "anti"}`;
      line.querySelector(".value b").textContent = signed(value);
      const ghost = line.querySelector(".ghost");
      if (ghost && before) {
        ghost.style.setProperty("--v", before[i] ?? 0);
        line.querySelector('[data-text="before"]').textContent = signed(before[i]);
      }
    });
  }

  function showReadout(place, study, row) {
    place.replaceChildren();
    for (const [key, label] of [["bias", "bias"], ["greedy", "greedy"], ["unambiguous", "accuracy"]]) {
      const score = study.scores[key]?.[row];
      if (!score) continue;
      const number = document.createElement("b");
      number.textContent = score[3];
      place.append(place.childNodes.length ? " · " : "", `${label} `, number);
    }
  }

  function show(id, omega) {
    const study = data[id];
    const box = document.getElementById(id);
    const row = nearest(study.strengths, omega);
    study.shown = study.strengths[row];
    box.dataset.omega = text(study.shown);
    showScores(box, study.scores, row);
    showBars(box, study, row);
    for (const place of all('[data-now="omega"]', box)) place.textContent = text(study.shown);
    for (const part of all("[data-strength]", box))
      part.classList.toggle("on", +part.dataset.strength === study.shown);
    const knob = document.querySelector(`[data-for="${id}"]`);
    if (!knob) return;
    const slider = knob.querySelector("input");
    slider.value = row;
    slider.setAttribute("aria-valuetext", `ω = ${text(study.shown)}`);
    knob.querySelector("output").textContent = text(study.shown);
    showReadout(knob.querySelector(".readout"), study, row);
  }

  // A strength chosen by hand goes into the address, so that the view can be shared.
  function select(id, omega) {
    show(id, omega);
    if (Object.keys(data).length === 1) history.replaceState(null, "", `#omega=${+data[id].shown.toFixed(3)}`);
  }

  function fromAddress() {
    const asked = /[#&]omega=(-?[0-9.]+)/.exec(location.hash);
    if (asked) for (const id of Object.keys(data)) show(id, +asked[1]);
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target?.tagName === "DETAILS") target.open = true;
  }

  for (const [id, study] of Object.entries(data)) {
    const box = document.getElementById(id);
    document.querySelector(`[data-for="${id}"] input`)
      ?.addEventListener("input", (event) => select(id, study.strengths[+event.target.value]));
    for (const column of all(".column", box))
      column.addEventListener("click", () => select(id, +column.dataset.strength));
    for (const radio of all(".choice input", box))
      radio.addEventListener("change", () => show(id, study.shown));
    show(id, study.start);
  }
  for (const toggle of all("[data-toggle]"))
    toggle.addEventListener("change", () => {
      for (const curve of all(`[data-curve="${toggle.dataset.toggle}"]`, toggle.closest("figure")))
        curve.style.display = toggle.checked ? "" : "none";
    });
  addEventListener("hashchange", fromAddress);
  fromAddress();
})();
