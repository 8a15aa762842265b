import os

import catalogue

TAX = 1 + int(os.environ["TAX_PERCENT"]) / 100


def handler(event, context):
    """``{"article": "lamp"}`` gives its price with tax."""
    return {"article": event["article"], "price": round(catalogue.price_of(event["article"]) * TAX, 2)}
