const form = document.querySelector(".filters"), runs = [...document.querySelectorAll(".run")];
const filter = () => {
  const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const run of runs) {
    const text = run.textContent.toLowerCase();
    run.hidden = (form.elements.experiment.value && run.dataset.experiment !== form.elements.experiment.value)
      || (form.elements.state.value && run.dataset.state !== form.elements.state.value)
      || !words.every((word) => text.includes(word));
    shown += !run.hidden;
  }
  document.querySelector("#shown").textContent = `${shown} of ${runs.length} run(s)`;
};
form.hidden = false;
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
filter();
