// What unfolds in the sidebar has no name in the theme: screen readers would say "button".
document.addEventListener("DOMContentLoaded", () => {
  for (const summary of document.querySelectorAll("nav details > summary")) {
    const link = summary.closest("li")?.querySelector("a");
    summary.setAttribute("aria-label", `Pages under ${link?.textContent.trim() ?? "this"}`);
  }
});
