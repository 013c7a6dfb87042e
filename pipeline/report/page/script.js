"use strict";
// Without this script the page still shows everything: all cases one below the other, layers at their default strength.
const find = (id) => document.getElementById(id);

for (const element of document.querySelectorAll(".scripted")) element.hidden = false;

// On a phone the tables come one after another; what is said about each opens at a touch.
const abouts = [...document.querySelectorAll("details.about")];
if (window.matchMedia("(max-width: 40rem)").matches) abouts.forEach((about) => { about.open = false; });
window.addEventListener("beforeprint", () => abouts.forEach((about) => { about.open = true; }));

const cases = [...document.querySelectorAll("#examples .case")];
const slider = find("case");
if (slider) {
  const show = () => {
    const chosen = Number(slider.value) - 1;
    cases.forEach((element, i) => element.classList.toggle("off", i !== chosen));
    find("case-name").textContent = cases[chosen].dataset.name;
    slider.setAttribute("aria-valuetext", cases[chosen].dataset.name);
  };
  slider.value = Math.ceil(cases.length / 2);
  slider.addEventListener("input", show);
  show();
  find("strength").addEventListener("input", (event) => {
    document.documentElement.style.setProperty("--strength", event.target.value / 100);
  });
}

// The chosen theme is stored if the browser allows local files to store data.
const recall = (action) => { try { return action(window.localStorage); } catch { return null; } };
const remembered = recall((memory) => memory.getItem("sward-theme"));
if (["auto", "light", "dark"].includes(remembered)) find(`theme-${remembered}`).checked = true;
find("theme").addEventListener("change", (event) => recall((memory) => memory.setItem("sward-theme", event.target.value)));

