"use strict";
// Ends the recording, annotates, writes the summary and uploads the log: also when the job failed or was cancelled.

const fs = require("node:fs");
const path = require("node:path");
const { asRoot, escaped, input, pause, run, saved, warn } = require("./common.js");
const { upload } = require("./artifact.js");

/** Time for the last line; GitHub gives a cancelled job five minutes in all. */
const PATIENCE_MS = 60000;
/** What a summary may have: more than 1 MiB, and GitHub drops it whole. */
const SUMMARY_MAX = 1024 * 1024;

function lives(pid) {
  try {
    // A zombie has ended: nobody reaps it once the step that started it is over.
    return !/^State:\s+Z/m.test(fs.readFileSync("/proc/" + pid + "/status", "utf8"));
  } catch {
    return false;
  }
}

async function stop() {
  const [pid, log, program] = [saved("pid"), saved("log"), saved("program")];
  if (!/^[0-9]+$/.test(pid) || !log) {
    return 0;
  }
  if (lives(pid)) {
    run(asRoot(["kill", "-TERM", pid]));
    for (let waited = 0; waited < PATIENCE_MS && lives(pid); waited += 20) {
      await pause(20);
    }
  }
  if (!fs.existsSync(log)) {
    return 0;
  }
  const annotations = run([program, "report", "--format", "github", log]);
  process.stdout.write(annotations.stdout);
  const readable = annotations.status === 0;
  if (!readable) {
    warn(annotations.failure);
  }
  const summary = process.env.GITHUB_STEP_SUMMARY;
  if (readable && summary) {
    const page = run([program, "report", "--format", "markdown", log]).stdout;
    const before = fs.existsSync(summary) ? fs.statSync(summary).size : 0;
    const fits = before + Buffer.byteLength(page) <= SUMMARY_MAX;
    fs.appendFileSync(summary, fits ? page : "bindwatch: the report is too long for this summary; see the log\n");
  }
  // A log that cannot be reported on may still tell somebody something.
  const name = input("name");
  if (name && fs.statSync(log).size > 0) {
    try {
      await upload(name, path.basename(log), fs.readFileSync(log));
    } catch (error) {
      warn("the log was not uploaded: " + error.message);
    }
  }
  if (!readable) {
    return input("required") === "true" ? 1 : 0;
  }
  const failOn = input("fail-on");
  if (!failOn || failOn === "none") {
    return 0;
  }
  const verdict = run([program, "report", "--fail-on", failOn, log]);
  if (verdict.status > 1) {
    process.stdout.write("::error title=bindwatch::" + escaped(verdict.failure) + "\n");
  }
  return verdict.status === 0 ? 0 : 1;
}

stop().then((code) => process.exit(code), (error) => { warn(error.stack); process.exit(1); });
