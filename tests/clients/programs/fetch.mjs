// Gets a URL as an app would that knows only what its runtime has, and prints the answer: fetch.mjs fetch|https URL. For Node, Deno
// and Bun.

import process from "node:process";

const clients = {
  async fetch(url) {
    const res = await fetch(url);
    if (!res.ok) throw new Error(`status ${res.status} ${res.statusText}`);
    return res.text();
  },

  https: async (url) => {
    const https = await import("node:https");
    return new Promise((resolve, reject) => {
      https
        .get(url, (res) => {
          let text = "";
          res.on("data", (part) => (text += part));
          res.on("end", () => (res.statusCode === 200 ? resolve(text) : reject(new Error(`status ${res.statusCode}`))));
        })
        .on("error", reject);
    });
  },
};

const [client, url] = process.argv.slice(2);
try {
  console.log(await clients[client](url));
} catch (err) {
  for (let cause = err; cause; cause = cause.cause) console.error(String(cause), cause.code ?? "");
  process.exit(1);
}
