// Gets a URL with one of Node's clients, as an app would, and prints the answer: get.js CLIENT URL.

const axios = (name) => async (url) => (await require(name).get(url)).data;

const clients = {
  axios: axios("axios"),
  "axios-1.16.0": axios("axios-1.16.0"),

  gaxios: async (url) => (await require("gaxios").request({ url, responseType: "text" })).data,

  needle: async (url) => {
    const answer = await require("needle")("get", url);
    if (answer.statusCode !== 200) throw new Error(`status ${answer.statusCode} ${answer.statusMessage}`);
    return answer.body;
  },

  "grpc-js": (url) =>
    new Promise((resolve, reject) => {
      const grpc = require("@grpc/grpc-js");
      const client = new grpc.Client(new URL(url).host, grpc.credentials.createSsl());
      const asItIs = (bytes) => bytes;
      client.makeUnaryRequest("/things.Things/Get", asItIs, asItIs, Buffer.alloc(0), (err, answer) => {
        client.close();
        if (err) reject(err);
        else resolve(answer);
      });
    }),
};

const [client, url] = process.argv.slice(2);
clients[client](url).then(
  (answer) => console.log(String(answer)),
  (err) => {
    console.error(String(err));
    process.exitCode = 1;
  },
);
