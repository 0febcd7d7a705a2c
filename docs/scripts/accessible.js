// The theme makes these elements in the browser without what a keyboard and a screen reader need.
const mend = () => {
  document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])").forEach((wrap) => wrap.setAttribute("tabindex", "0"));
  document.querySelectorAll(".md-code__nav:not([aria-label])").forEach((nav, i) => nav.setAttribute("aria-label", `Code block ${i + 1}`));
  document.querySelectorAll(".md-search[role=dialog]:not([aria-label])").forEach((search) => search.setAttribute("aria-label", "Search"));
};
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
mend();
