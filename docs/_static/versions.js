// Fill the list of versions; choosing one opens the same page of it, or its first page
// where it lacks this one. `versions` comes from ../versions.js beside the versions.
if (typeof versions !== "undefined") {
  const select = document.getElementById("version");
  const root = new URL(document.documentElement.dataset.content_root, location.href);
  const here = root.pathname.split("/").filter(Boolean).pop();
  for (const name of versions) {
    select.add(new Option(name, name, false, name === here));
  }
  select.addEventListener("change", async () => {
    const page = new URL(`../${select.value}/${select.dataset.page}`, root);
    const first = new URL(`../${select.value}/index.html`, root);
    const found = await fetch(page, { method: "HEAD" }).catch(() => null);
    const missing = found && !found.ok; // files opened without a server answer nothing
    location.href = missing ? first : page;
  });
  select.parentElement.hidden = false;
}
