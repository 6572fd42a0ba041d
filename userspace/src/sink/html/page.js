"use strict";
(function () {
  var nav = document.querySelector("nav");
  var articles = Array.prototype.slice.call(document.querySelectorAll("article"));
  var off = {};
  function show() {
    articles.forEach(function (article) { article.hidden = !!off[article.getAttribute("data-severity")]; });
    Array.prototype.forEach.call(document.querySelectorAll("section"), function (section) {
      section.hidden = !section.querySelector("article:not([hidden])");
    });
  }
  function button(label, pressed, act) {
    var made = document.createElement("button");
    made.type = "button";
    made.textContent = label;
    if (pressed !== null) { made.setAttribute("aria-pressed", String(pressed)); }
    made.addEventListener("click", function () { act(made); });
    nav.appendChild(made);
  }
  ["error", "warning", "note"].forEach(function (severity) {
    var count = document.querySelectorAll("article[data-severity=" + severity + "]").length;
    if (count === 0) { return; }
    button(severity + " " + count, true, function (made) {
      off[severity] = !off[severity];
      made.setAttribute("aria-pressed", String(!off[severity]));
      show();
    });
  });
  var details = document.querySelectorAll("details");
  if (details.length > 0) {
    button("open all", null, function (made) {
      var open = made.textContent === "open all";
      Array.prototype.forEach.call(details, function (one) { one.open = open; });
      made.textContent = open ? "close all" : "open all";
    });
  }
  window.addEventListener("beforeprint", function () {
    Array.prototype.forEach.call(details, function (one) { one.open = true; });
  });
})();
