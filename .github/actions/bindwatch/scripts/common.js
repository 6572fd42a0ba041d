"use strict";
// What both halves of the action need. No dependency: Node.js alone, so that nothing is fetched on a runner.

const { spawnSync } = require("node:child_process");
const fs = require("node:fs");

/** An input of the action, as the runner hands it over. */
function input(name) {
  return (process.env["INPUT_" + name.toUpperCase()] || "").trim();
}

/** Text as the message of a workflow command. */
function escaped(text) {
  return String(text).replace(/%/g, "%25").replace(/\r/g, "%0D").replace(/\n/g, "%0A");
}

function warn(text) {
  process.stdout.write("::warning title=bindwatch::" + escaped(text) + "\n");
}

/** Remembers a value for the other half. */
function save(name, value) {
  fs.appendFileSync(process.env.GITHUB_STATE, name + "=" + String(value).replace(/[\r\n]/g, " ") + "\n");
}

function saved(name) {
  return process.env["STATE_" + name] || "";
}

/** A command as root: as it is, or by sudo, which runners let their user call without a password. */
function asRoot(command) {
  return process.getuid() === 0 ? command : ["sudo", "-n", "-E"].concat(command);
}

function run(command) {
  const done = spawnSync(command[0], command.slice(1), { encoding: "utf8", maxBuffer: 64 << 20 });
  const failure = done.error ? done.error.message : (done.stderr || "").trim();
  return { status: done.status === null ? 125 : done.status, stdout: done.stdout || "", failure };
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

module.exports = { asRoot, escaped, input, pause, run, save, saved, warn };
