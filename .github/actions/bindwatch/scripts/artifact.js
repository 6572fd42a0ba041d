"use strict";
// Uploads one file as an artifact, by the service that `actions/upload-artifact` version 4 talks to. It takes zip files.

const crypto = require("node:crypto");
const zlib = require("node:zlib");

const SERVICE = "twirp/github.actions.results.api.v1.ArtifactService/";
const TIMEOUT_MS = 60000;

/** A zip file of one file (APPNOTE.TXT of PKWARE, without extensions): up to 4 GiB. */
function zip(name, bytes) {
  const packed = zlib.deflateRawSync(bytes);
  const file = Buffer.from(name);
  const shared = Buffer.alloc(26);
  shared.writeUInt16LE(20, 0); // version that can read it
  shared.writeUInt16LE(0x0800, 2); // names are UTF-8
  shared.writeUInt16LE(8, 4); // deflate
  shared.writeUInt16LE(0x21, 8); // 1980-01-01: the log has its own times
  shared.writeUInt32LE(zlib.crc32 ? zlib.crc32(bytes) : crc32(bytes), 10);
  shared.writeUInt32LE(packed.length, 14);
  shared.writeUInt32LE(bytes.length, 18);
  shared.writeUInt16LE(file.length, 22);
  const local = Buffer.concat([Buffer.from("PK\x03\x04"), shared, file, packed]);
  const central = Buffer.concat([Buffer.from("PK\x01\x02\x14\x00", "latin1"), shared, Buffer.alloc(14), file]);
  const end = Buffer.alloc(22);
  end.write("PK\x05\x06", "latin1");
  end.writeUInt16LE(1, 8);
  end.writeUInt16LE(1, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(local.length, 16);
  return Buffer.concat([local, central, end]);
}

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) {
      crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
    }
  }
  return (crc ^ 0xffffffff) >>> 0;
}

/** Ids of the run and the job, from the scope of the runner's token. */
function ids(token) {
  const claims = JSON.parse(Buffer.from(token.split(".")[1] || "", "base64url").toString() || "{}");
  const scope = String(claims.scp || "").split(" ").find((one) => one.startsWith("Actions.Results:"));
  const [, run, job] = (scope || "").split(":");
  if (!run || !job) {
    throw new Error("the runner's token gives no access to artifacts");
  }
  return { workflow_run_backend_id: run, workflow_job_run_backend_id: job };
}

async function upload(name, file, bytes) {
  const [token, service] = [process.env.ACTIONS_RUNTIME_TOKEN, process.env.ACTIONS_RESULTS_URL];
  if (!token || !service) {
    throw new Error("the runner offers no artifact service");
  }
  const call = async (method, body) => {
    const answer = await fetch(new URL(SERVICE + method, service), {
      method: "POST",
      headers: { "authorization": "Bearer " + token, "content-type": "application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (!answer.ok) {
      throw new Error(method + " was answered with " + answer.status);
    }
    return answer.json();
  };
  const [packed, owner] = [zip(file, bytes), ids(token)];
  const created = await call("CreateArtifact", { ...owner, name, version: 4 });
  const stored = await fetch(created.signed_upload_url, {
    method: "PUT",
    headers: { "x-ms-blob-type": "BlockBlob", "content-type": "application/zip" },
    body: packed,
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  if (!stored.ok) {
    throw new Error("the store answered with " + stored.status);
  }
  const hash = "sha256:" + crypto.createHash("sha256").update(packed).digest("hex");
  await call("FinalizeArtifact", { ...owner, name, size: String(packed.length), hash });
}

module.exports = { upload, zip };
