"""An event's handler: what it returns goes on to `on_success`; what it raises is retried, then a dead letter."""

import os


def handler(event, context):
    article = event["article"]
    price = os.environ.get(f"PRICE_{article.upper()}")
    if price is None:
        raise LookupError(f"no price for {article!r}")
    print("booked", event["id"], "from", context.event.nats_subject)
    return {"order": event["id"], "price": float(price)}
