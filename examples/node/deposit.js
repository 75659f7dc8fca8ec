// Deposits an amount and shows the balance with it.
//
//     node deposit.js account-1 100
'use strict';
const { Client } = require('pg');

async function deposit(client, account, amount) {
  await client.query(
    "SELECT daybook.append('account', $1, 'Deposited', $2::jsonb)",
    [account, { amount }]);
}

async function balance(client, account) {
  // The projection is kept by a worker: wait until it has come to this session's
  // last commit.  It is told when that happens; nobody polls.
  await client.query("SELECT daybook.wait_for_projection('balance', timeout => '10s')");
  const { rows } = await client.query('SELECT amount FROM balance WHERE account = $1', [account]);
  return rows.length ? rows[0].amount : 0;
}

async function main() {
  const [account, amount] = process.argv.slice(2);
  const client = new Client();
  await client.connect();
  try {
    // one client, not a pool: the wait is for this session's last commit
    await deposit(client, account, Number(amount));
    console.log(account, await balance(client, account));
  } finally {
    await client.end();
  }
}

main().catch((error) => { console.error(error.message); process.exitCode = 1; });
