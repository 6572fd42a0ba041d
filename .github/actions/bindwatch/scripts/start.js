"use strict";
// Starts the recording, and returns when nothing that is bound from now on is missed.

const { spawn } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { asRoot, escaped, input, pause, save, warn } = require("./common.js");

const PATIENCE_MS = 60000;

async function start() {
  const folder = fs.mkdtempSync(path.join(process.env.RUNNER_TEMP || os.tmpdir(), "bindwatch-"));
  const log = path.resolve(process.env.GITHUB_WORKSPACE || ".", input("output") || "bindwatch.jsonl.zst");
  const [ready, said] = [path.join(folder, "ready"), path.join(folder, "said")];
  const program = input("bindwatch") || "bindwatch";
  const command = asRoot([program, "record", "--quiet", "--output", log, "--ready-file", ready]);
  const err = fs.openSync(said, "w");
  // In a group of its own: what ends a step must not end the recording.
  const child = spawn(command[0], command.slice(1), { detached: true, stdio: ["ignore", "ignore", err] });
  let ended = null;
  child.on("error", (error) => { ended = error.message; });
  child.on("exit", (code) => { ended = fs.readFileSync(said, "utf8").trim() || "it ended with " + code; });
  // Saved first: should this step be cancelled, the other half still ends it.
  save("pid", child.pid || "");
  save("log", log);
  save("program", program);
  for (let waited = 0; waited < PATIENCE_MS && ended === null; waited += 20) {
    if (fs.existsSync(ready)) {
      save("recording", "yes");
      child.unref();
      process.stdout.write("bindwatch records to " + log + "\n");
      return 0;
    }
    await pause(20);
  }
  const why = "nothing is recorded: " + (ended === null ? "it does not get ready" : ended);
  if (input("required") === "true") {
    process.stdout.write("::error title=bindwatch::" + escaped(why) + "\n");
    return 1;
  }
  warn(why);
  return 0;
}

start().then((code) => process.exit(code), (error) => { warn(error.stack); process.exit(1); });
