// Usage: node objects.mjs <url> <bucket> get <name>          -> {"size", "sha256", "digest", "metadata"}
//        node objects.mjs <url> <bucket> put <name> <bytes>  -> {"size", "digest"}
//        node objects.mjs <url> <bucket> list                -> {"names"}
//        node objects.mjs <url> <bucket> status <name>       -> {"found", "deleted"}
import { createHash } from "node:crypto";
import { connect } from "@nats-io/transport-node";
import { Objm } from "@nats-io/obj";

const [url, bucket, what, name, bytes] = process.argv.slice(2);
const connection = await connect({ servers: url, timeout: 20000 });
try {
  const store = await new Objm(connection).open(bucket);
  let answer;
  if (what === "get") {
    const result = await store.get(name);
    const hash = createHash("sha256");
    let size = 0;
    for await (const part of result.data) {
      hash.update(part);
      size += part.length;
    }
    const error = await result.error; // set when the digest differs
    if (error) throw error;
    const info = result.info;
    answer = { size, sha256: hash.digest("hex"), digest: info.digest, metadata: info.metadata };
  } else if (what === "put") {
    const data = new Uint8Array(Number(bytes)).map((_, i) => i % 251);
    const stream = new ReadableStream({
      start(controller) {
        controller.enqueue(data);
        controller.close();
      },
    });
    const info = await store.put({ name, metadata: { from: "js" } }, stream);
    answer = { size: info.size, digest: info.digest };
  } else if (what === "list") {
    answer = { names: (await store.list()).map((info) => info.name) };
  } else if (what === "status") {
    const info = await store.info(name);
    answer = { found: info !== null, deleted: info?.deleted ?? false };
  } else {
    throw new Error(`unknown: ${what}`);
  }
  console.log(JSON.stringify(answer));
} finally {
  await connection.close();
}
