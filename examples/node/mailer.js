// Sends a mail for each event, exactly once: what it writes is committed together
// with the acknowledgement.  Run as many at a time as you like.
//
//     node mailer.js [SECONDS]      ends after that long without events; runs on without
'use strict';
const { Client } = require('pg');

const SUBSCRIPTION = 'mailer';
const LOCK_NOT_AVAILABLE = '55P03';

let running = true;
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => { running = false; }); // after the batch in hand
}

async function sendMail(client, event) {
  if (event.data?.amount === undefined) throw new Error(`${event.type} without an amount`);
  await client.query(
    "INSERT INTO mail (event_id, account, body, sent_by) VALUES ($1, $2, $3, 'node')",
    [event.event_id, event.stream_id, `${event.type} ${event.data.amount}`]);
}

// One transaction: the mails, and the acknowledgement of their events.
async function handle(client, batch) {
  const { lease } = batch[0];
  const failed = new Set();
  await client.query('BEGIN');
  try {
    for (const event of batch) {
      // what comes after an event that failed waits with it
      if (failed.has(event.stream_id)) continue;
      await client.query('SAVEPOINT event');
      try {
        await sendMail(client, event);
      } catch (error) {
        failed.add(event.stream_id);
        await client.query('ROLLBACK TO event');
        await client.query('SELECT daybook.nack($1, $2, $3, $4)',
          [SUBSCRIPTION, lease, event.position, error.message]);
      }
      await client.query('RELEASE event');
    }
    await client.query('SELECT daybook.ack($1, $2)', [SUBSCRIPTION, lease]);
    await client.query('COMMIT');
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  }
}

async function consume(client, idle) {
  while (running) {
    // committed at once, so that it counts whatever becomes of the rest
    const { rows: batch } = await client.query(
      `SELECT * FROM daybook.fetch($1, max_events => 100, lease => '1 min',
         wait => make_interval(secs => $2))`,
      [SUBSCRIPTION, idle ?? 10]);
    if (batch.length > 0) {
      try {
        await handle(client, batch);
      } catch (error) {
        if (error.code !== LOCK_NOT_AVAILABLE) throw error;
        // it took longer than the lease, and another one has the events now
        console.error(error.message);
      }
    } else if (idle) {
      return;
    }
  }
}

async function main() {
  const idle = process.argv[2] ? Number(process.argv[2]) : undefined;
  const client = new Client();
  await client.connect();
  try {
    await consume(client, idle);
  } finally {
    await client.end();
  }
}

main().catch((error) => { console.error(error.message); process.exitCode = 1; });
