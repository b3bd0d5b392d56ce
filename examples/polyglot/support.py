#!/usr/bin/env python3
"""The shop's support desk, in Python: no busway, only RabbitMQ's own client and docs/wire-amqp.md.

    python3 support.py 'amqp://guest:guest@localhost/%2f?bus=shop'

It takes the place of the shop's application `support` (examples/shop/support.rs) among the four
others in Rust, and does all that a program can do on a bus:

* shares work: it is a member of the durable group `calls` on `shop.warranty_registered`, with
  retries;
* asks: `shop.check_warranty`, of whoever responds, and understands a typed refusal;
* publishes: `shop.warranty_checked`;
* answers: `shop.end_day`, asked of the endpoint `support`, which also ends the program;
* subscribes: it hears every `shop.parts_reserved`;
* is present: the others see it come, and wait for it at their barrier.

Needs pika 1.2 or later (Debian: python3-pika; elsewhere: pip install pika).
"""

import json
import os
import secrets
import socket
import sys
import time
import urllib.parse
import uuid

try:
    import pika
except ImportError:
    sys.exit("support.py: needs pika: apt-get install python3-pika, or pip install pika")

ME = "support"
REGISTERED = "shop.warranty_registered"
CHECKED = "shop.warranty_checked"
RESERVED = "shop.parts_reserved"
CHECK = "shop.check_warranty"
END_DAY = "shop.end_day"

DIRECT_REPLY = "amq.rabbitmq.reply-to"
PATIENCE_MS = 5_000
RETRY_MS = 500
ATTEMPTS = 10
AT_ONCE = 16


class Support:
    def __init__(self, url):
        address, _, query = url.partition("?")
        parameters = urllib.parse.parse_qs(query)
        self.bus = parameters.get("bus", ["busway"])[0]
        self.peer = secrets.token_hex(8)
        self.connection = pika.BlockingConnection(pika.URLParameters(address))
        # One channel for what comes in, one for what goes out: that one confirms each message, and
        # answers to our questions come by it, because they must come by the channel that asked.
        self.taking = self.connection.channel()
        self.giving = self.connection.channel()
        self.giving.confirm_delivery()
        self.asked = {}  # correlation id -> the work that waits for the answer
        self.done = set()
        self.repeats = 0
        self.heard = set()
        self.over = False

    # What stands on the broker. Whoever comes first declares it; the arguments must be the same.

    def declare(self):
        channel = self.taking
        channel.exchange_declare(self.name("events"), "topic", durable=True)
        channel.exchange_declare(self.name("presence"), "fanout", durable=True)

        self.dead = self.name(f"dead.{ME}.calls.{REGISTERED}")
        channel.queue_declare(self.dead, durable=True, arguments={
            "x-queue-type": "quorum",
            "x-delivery-limit": 1_000_000,
            "x-max-length": 10_000,
            "x-overflow": "drop-head",
        })
        self.calls = self.name(f"dgroup.{ME}.calls.{REGISTERED}")
        channel.queue_declare(self.calls, durable=True, arguments={
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self.dead,
            "x-delivery-limit": 1_000,
            "x-max-length": 100_000,
            "x-overflow": "reject-publish",
        })
        for key in (f"all.{REGISTERED}", f"to.{ME}.{REGISTERED}"):
            channel.queue_bind(self.calls, self.name("events"), key)

        self.later = self.name(f"retry.{RETRY_MS}")
        channel.exchange_declare(self.later, "fanout", durable=True)
        channel.queue_declare(self.later, durable=True, arguments={
            "x-queue-type": "classic",
            "x-message-ttl": RETRY_MS,
            "x-dead-letter-exchange": "",
        })
        channel.queue_bind(self.later, self.later, "")

        self.asks = self.name(f"rpc-to.{ME}.{END_DAY}")
        channel.queue_declare(self.asks, durable=True, auto_delete=True, arguments={
            "x-queue-type": "classic",
            "x-expires": 10_000,
        })

        plain = self.name(f"sub.{self.peer}.0.{secrets.token_hex(8)}")
        channel.queue_declare(plain, exclusive=True, auto_delete=True)
        channel.queue_bind(plain, self.name("events"), f"all.{RESERVED}")
        self.news = self.name(f"peer.{self.peer}.{secrets.token_hex(8)}")
        channel.queue_declare(self.news, exclusive=True, auto_delete=True)
        channel.queue_bind(self.news, self.name("presence"), "")

        channel.basic_qos(prefetch_count=AT_ONCE)
        self.giving.basic_consume(DIRECT_REPLY, self.on_reply, auto_ack=True)
        channel.basic_consume(plain, self.on_reserved, auto_ack=True)
        channel.basic_consume(self.news, self.on_peer, auto_ack=True)
        channel.basic_consume(self.calls, self.on_registered)
        channel.basic_consume(self.asks, self.on_end_day)

    def name(self, rest):
        return f"{self.bus}.{rest}"

    # Publishing: to the exchange of all events, by the event's name, and confirmed.

    def publish(self, event, body):
        self.send(self.name("events"), f"all.{event}", body, type=event, delivery_mode=2)

    def send(self, exchange, key, body, mandatory=False, headers=None, **properties):
        headers = {"busway-peer": self.peer, "busway-version": 1, **(headers or {})}
        properties.setdefault("message_id", str(uuid.uuid4()))
        self.giving.basic_publish(
            exchange, key, json.dumps(body).encode(),
            pika.BasicProperties(
                app_id=ME, content_type="application/json", headers=headers, **properties),
            mandatory=mandatory)

    # Sharing work: acked when it is done, which is when the answer to our question is published.

    def on_registered(self, channel, method, properties, body):
        registered = json.loads(body)
        order, serial = registered["order"], registered["serial"]
        key = (order["day"], order["number"])
        if key in self.done:
            self.repeats += 1
        self.done.add(key)
        # The customer reads the number out, and takes a zero for the letter O now and then.
        if order["number"] % 40 == 0:
            serial = serial.replace("0", "O", 1)
        work = (method.delivery_tag, properties, body, order)
        self.ask(CHECK, {"serial": serial}, work)

    # Asking: mandatory, so that nobody there is known at once; with a deadline; the answer comes
    # back by the correlation id.

    def ask(self, request, body, work):
        question = str(uuid.uuid4())
        self.asked[question] = work
        try:
            self.send(
                "", self.name(f"rpc.{request}"), body, mandatory=True,
                message_id=question, correlation_id=question, type=request,
                reply_to=DIRECT_REPLY, expiration=str(PATIENCE_MS), delivery_mode=1,
                headers={"busway-timeout-ms": PATIENCE_MS})
        except pika.exceptions.UnroutableError:
            self.gave_up(question, "nobody responds")
            return
        self.connection.call_later(
            PATIENCE_MS / 1000, lambda: self.gave_up(question, "no answer in time"))

    def on_reply(self, channel, method, properties, body):
        work = self.asked.pop(properties.correlation_id, None)
        if work is None:
            return  # too late
        tag, _, _, order = work
        status = (properties.headers or {}).get("busway-status", "response")
        if status == "response":
            answer = {"Ok": json.loads(body)}
        elif status == "refused":
            answer = {"Err": json.loads(body)}  # "no" is an answer too
        else:
            self.retry(work, (properties.headers or {}).get("busway-text", status))
            return
        self.publish(CHECKED, {"order": order, "answer": answer})
        self.taking.basic_ack(tag)

    def gave_up(self, question, reason):
        work = self.asked.pop(question, None)
        if work is not None:
            self.retry(work, reason)

    def retry(self, work, reason):
        """Another attempt later, or a dead letter; the original is acked when the copy is safe."""
        tag, properties, body, _ = work
        headers = {
            key: value for key, value in (properties.headers or {}).items()
            if not key.startswith(("x-death", "x-first-death-", "x-last-death-", "x-delivery-count"))
        }
        attempt = int(headers.get("busway-attempt", 1))
        now = int(time.time() * 1000)
        if attempt < ATTEMPTS:
            exchange, key = self.later, self.calls
            headers["busway-attempt"] = attempt + 1
        else:
            exchange, key = "", self.dead
            headers.update({
                "busway-attempt": attempt, "busway-dead-reason": "error", "busway-text": reason,
                "busway-dead-at-ms": now, "busway-queue": self.calls})
        properties.headers, properties.delivery_mode, properties.expiration = headers, 2, None
        self.giving.basic_publish(exchange, key, body, properties, mandatory=True)
        self.taking.basic_ack(tag)

    # Answering: what was asked of a responder that died is never run twice.

    def on_end_day(self, channel, method, properties, body):
        if method.redelivered:
            status, answer = {"busway-status": "failed", "busway-failure": "abandoned"}, None
        else:
            status, answer = {"busway-status": "response"}, {"repeats": self.repeats}
        self.send(
            "", properties.reply_to, answer, correlation_id=properties.correlation_id,
            delivery_mode=1, headers=status)
        channel.basic_ack(method.delivery_tag)
        self.over = self.over or answer is not None

    # Subscribing: a queue of our own.

    def on_reserved(self, channel, method, properties, body):
        order = json.loads(body)["order"]
        self.heard.add((order["day"], order["number"]))

    # Presence: who we are, to everybody when it changes and every 2 s, and to each newcomer.

    def tell(self, kind, exchange=None, key=""):
        state = {
            "kind": kind, "peer": self.peer, "pid": os.getpid(), "host": socket.gethostname(),
            "ready": True, "endpoints": [ME],
            "interests": [{"filter": RESERVED, "endpoints": [ME]}],
            "groups": [{"endpoint": ME, "group": "calls", "topic": REGISTERED}],
            "responders": [{"endpoint": ME, "topic": END_DAY}],
        }
        exchange = self.name("presence") if exchange is None else exchange
        self.send(exchange, key, state, reply_to=self.news, delivery_mode=1)

    def on_peer(self, channel, method, properties, body):
        told = json.loads(body)
        if told["kind"] == "hello" and told["peer"] != self.peer and properties.reply_to:
            self.tell("state", "", properties.reply_to)

    def beat(self):
        self.tell("state")
        self.connection.call_later(2, self.beat)

    def run(self):
        self.declare()
        self.tell("hello")
        self.connection.call_later(2, self.beat)
        while not self.over:
            self.connection.process_data_events(time_limit=1)
        self.tell("bye")
        self.connection.close()
        print(f"support.py: heard of {len(self.heard)} reserved orders", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: support.py 'amqp://user:password@host/vhost?bus=NAME'")
    Support(sys.argv[1]).run()
