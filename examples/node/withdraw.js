// Withdraws an amount, if the account has it.
//
//     node withdraw.js account-1 30
'use strict';
const { setTimeout: sleep } = require('node:timers/promises');
const { Client } = require('pg');

const ATTEMPTS = 20;
const SERIALIZATION_FAILURE = '40001';

// What the account's events say, and the version of the last one.
async function funds(client, account) {
  const { rows } = await client.query(
    "SELECT version, type, data FROM daybook.replay('account', $1)", [account]);
  let amount = 0;
  let version = '0'; // bigint comes as text, and can go back as such
  for (const event of rows) {
    if (event.type === 'Deposited') amount += event.data.amount;
    else if (event.type === 'Withdrawn') amount -= event.data.amount;
    version = event.version;
  }
  return { amount, version };
}

async function withdraw(client, account, amount) {
  // The decision is taken on the account's events, and holds only if no other
  // has come since: 40001 says that one has, and the decision is taken again.
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const available = await funds(client, account);
    if (available.amount < amount) throw new Error(`${account} has only ${available.amount}`);
    try {
      await client.query(
        "SELECT daybook.append('account', $1, 'Withdrawn', $2::jsonb, expected_version => $3)",
        [account, { amount }, available.version]);
      return;
    } catch (error) {
      if (error.code !== SERIALIZATION_FAILURE) throw error;
      await sleep(Math.random() * 10 * attempt);
    }
  }
  throw new Error(`${account} is too busy`);
}

async function main() {
  const [account, amount] = process.argv.slice(2);
  const client = new Client();
  await client.connect();
  try {
    await withdraw(client, account, Number(amount));
  } finally {
    await client.end();
  }
}

main().catch((error) => { console.error(error.message); process.exitCode = 1; });
