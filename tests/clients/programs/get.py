"""Gets a URL with one of Python's clients, as an app would, and prints the answer: get.py CLIENT URL."""

import sys
from urllib.parse import urlsplit


def urllib(url):
    import urllib.request

    return urllib.request.urlopen(url).read()


def requests(url):
    import requests

    answer = requests.get(url)
    answer.raise_for_status()
    return answer.content


def httpx(url):
    import httpx

    answer = httpx.get(url)
    answer.raise_for_status()
    return answer.content


def aiohttp(url):
    import asyncio

    import aiohttp

    async def get():
        async with aiohttp.ClientSession(trust_env=True, raise_for_status=True) as session:
            async with session.get(url) as answer:
                return await answer.read()

    return asyncio.run(get())


def boto3(url):
    import boto3
    from botocore.config import Config

    # It signs its calls, so the sidecar has an Authorization to replace.
    s3 = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="eu-central-1",
        aws_access_key_id="an id",
        aws_secret_access_key="a secret",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    return s3.get_object(Bucket="things", Key="one")["Body"].read()


def websocket(url):
    import websocket

    return websocket.create_connection(url.replace("https://", "wss://")).recv().encode()


def grpc(url):
    import grpc

    with grpc.secure_channel(urlsplit(url).netloc, grpc.ssl_channel_credentials()) as channel:
        return channel.unary_unary("/things.Things/Get")(b"")


client, url = sys.argv[1:]
try:
    sys.stdout.buffer.write(globals()[client](url))
except Exception as err:
    sys.exit(f"{type(err).__name__}: {err}")
