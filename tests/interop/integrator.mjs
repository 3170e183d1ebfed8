// What an integrator does with our pipeline and no code of ours. One JSON object a line.
// Usage: node integrator.mjs <url> discover
//        node integrator.mjs <url> command <session> <verb> <body>   -> the answer
//        node integrator.mjs <url> enqueue <session> <verb> <body> <id>   -> the outcome, once it is there
//        node integrator.mjs <url> live <count>        -> chunk.ready of any session, as it happens
//        node integrator.mjs <url> durable <name>      -> the same by a durable consumer, until it is killed
//        node integrator.mjs <url> history <session>   -> every event, by an ordered consumer
//        node integrator.mjs <url> status <session>    -> the view, from the key-value bucket
//        node integrator.mjs <url> fetch <object> <file>   -> a stored chunk into a file, digest checked
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { connect, headers } from "@nats-io/transport-node";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { Objm } from "@nats-io/obj";

const [url, what, first, second, third, fourth] = process.argv.slice(2);
const say = (value) => console.log(JSON.stringify(value));
const connection = await connect({
  servers: url,
  maxReconnectAttempts: -1,
  reconnectTimeWait: 100,
  timeout: 20000,
});

const envelope = (message) => ({
  sequence: message.info?.streamSequence ?? Number(message.headers?.get("Nats-Sequence") ?? 0),
  subject: message.subject,
  type: message.headers?.get("ce-type") ?? "",
  id: message.headers?.get("ce-id") ?? "",
  session: message.headers?.get("ce-subject") ?? "",
  data: message.headers?.get("ce-type") ? message.json() : null,
});

async function consume(messages, count, answer) {
  for await (const message of messages) {
    say(envelope(message));
    answer(message);
    if (--count === 0) return;
  }
}

if (what === "discover") {
  const answers = await connection.requestMany("$SRV.INFO.lucid", "", { maxWait: 2000, maxMessages: 1 });
  for await (const answer of answers) say(answer.json());
} else if (what === "command") {
  const reply = await connection.request(`lucid.cmd.${first}.${second}`, third, { timeout: 20000 });
  say({ ...reply.json(), code: reply.headers?.get("Nats-Service-Error-Code") ?? "" });
} else if (what === "enqueue") {
  const js = jetstream(connection);
  const envelope = headers();
  envelope.set("Nats-Msg-Id", fourth);
  await js.publish(`lucid.cmdq.${first}.${second}`, third, { headers: envelope });
  const consumer = await js.consumers.get("LUCID_OUTCOMES", { filter_subjects: `lucid.out.${first}.${fourth}` });
  const message = await consumer.next({ expires: 20000 });
  say(message.json());
} else if (what === "live") {
  const feed = connection.subscribe("lucid.live.evt.*.chunk.ready");
  await connection.flush();
  say({ listening: true });
  await consume(feed, Number(first), () => {});
} else if (what === "durable") {
  const manager = await jetstreamManager(connection);
  await manager.consumers.add("LUCID_EVENTS", {
    durable_name: first,
    filter_subject: "lucid.evt.*.chunk.ready",
    ack_policy: AckPolicy.Explicit,
  });
  const consumer = await jetstream(connection).consumers.get("LUCID_EVENTS", first);
  say({ listening: true });
  await consume(await consumer.consume({ expires: 5000 }), -1, (message) => message.ack());
} else if (what === "history") {
  const filter = { filter_subjects: `lucid.evt.${first}.>` };
  const consumer = await jetstream(connection).consumers.get("LUCID_EVENTS", filter);
  const { num_pending: count } = await consumer.info();
  await consume(await consumer.consume({ expires: 5000 }), count, () => {});
} else if (what === "status") {
  const bucket = await new Kvm(connection).open("lucid-status-v1");
  say((await bucket.get(`s.${first}`)).json());
} else if (what === "fetch") {
  const bucket = await new Objm(connection).open("lucid-chunks");
  const result = await bucket.get(first);
  const parts = [];
  for await (const part of result.data) parts.push(part);
  const error = await result.error; // set when the digest differs
  if (error) throw error;
  const data = Buffer.concat(parts);
  writeFileSync(second, data);
  say({ size: data.length, digest: result.info.digest, sha256: createHash("sha256").update(data).digest("hex") });
} else {
  throw new Error(`unknown: ${what}`);
}
await connection.close();
